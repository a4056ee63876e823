package bench

import (
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept in microseconds, to three digits.
const (
	latencyUnit   = time.Microsecond
	latencyMax    = 2 * time.Minute
	latencyDigits = 3
)

// A histogram collects latencies. Its zero value is not usable.
type histogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // guarded by mu
}

func newHistogram() *histogram {
	return &histogram{h: hdrhistogram.New(1, int64(latencyMax/latencyUnit), latencyDigits)}
}

// record adds one latency, in nanoseconds. Whoever records many at a time takes mu once and calls add.
func (h *histogram) record(ns int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(ns)
}

func (h *histogram) add(ns int64) {
	// Bounded, so that nothing is refused.
	_ = h.h.RecordValue(min(max(ns/int64(latencyUnit), 1), int64(latencyMax/latencyUnit)))
}

// merge adds what other has, once nobody records any more.
func (h *histogram) merge(other *histogram) { h.h.Merge(other.h) }

// times describes what was recorded, under a name.
func (h *histogram) times(name string) Times {
	if h.h.TotalCount() == 0 {
		return Times{Name: name}
	}
	at := func(percentile float64) float64 { return float64(h.h.ValueAtPercentile(percentile)) / 1000 }
	return Times{Name: name, Count: h.h.TotalCount(), Min: float64(h.h.Min()) / 1000, Mean: digits5(h.h.Mean() / 1000),
		P50: at(50), P75: at(75), P90: at(90), P95: at(95), P99: at(99), P999: at(99.9), P9999: at(99.99), Max: float64(h.h.Max()) / 1000}
}

// median returns the middle of values, or the mean of the two in the middle; 0 for none.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// ratio is a/b, 0 where there is no b.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
