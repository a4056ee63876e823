package realtime

import (
	"math"
	"sync/atomic"
)

// Histogram counts values by size.
type Histogram struct {
	Count   uint64   `json:"count"`
	Sum     float64  `json:"sum"`
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts the values up to Upper, those of the smaller buckets among them.
type Bucket struct {
	Upper float64 `json:"upper"`
	Count uint64  `json:"count"`
}

// buckets is how many powers of two a histogram tells apart; what is larger is only in the count.
const buckets = 14

// histogram counts values into buckets of powers of two, from its scale on: 0.25 ms to 2 s if that is
// defaultScale. Observing is atomic and takes no lock. The zero value is one of seconds.
type histogram struct {
	scale  float64 // the first bucket's upper end; 0 for defaultScale
	counts [buckets + 1]atomic.Uint64
	sum    atomic.Uint64 // the bits of a float64
}

const defaultScale = 0.00025

func (h *histogram) first() float64 {
	if h.scale == 0 {
		return defaultScale
	}
	return h.scale
}

func (h *histogram) observe(v float64) {
	i := 0
	if v > h.first() {
		i = min(int(math.Ceil(math.Log2(v/h.first()))), buckets)
	}
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Sum: math.Float64frombits(h.sum.Load())}
	upper := h.first()
	for i := range buckets {
		s.Count += h.counts[i].Load()
		s.Buckets = append(s.Buckets, Bucket{Upper: upper, Count: s.Count})
		upper *= 2
	}
	s.Count += h.counts[buckets].Load()
	return s
}

// add sums up two histograms of one scale. The zero Histogram has any.
func (h *Histogram) add(o Histogram) {
	h.Count += o.Count
	h.Sum += o.Sum
	if h.Buckets == nil {
		h.Buckets = o.Buckets
		return
	}
	for i := range h.Buckets {
		h.Buckets[i].Count += o.Buckets[i].Count
	}
}
