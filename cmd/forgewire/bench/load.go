package bench

import (
	"fmt"
	"time"
)

// load is what one measurement does.
type load struct {
	publishers int
	size       int // of a message's data, in bytes
	warmup     time.Duration
	duration   time.Duration
}

// settle bounds what comes after the load: the last messages have to arrive.
const settle = 20 * time.Second

// whole bounds a measurement.
func (l load) whole() time.Duration { return l.warmup + l.duration + settle }

// A window is the part of a measurement that counts, in nanoseconds of Unix time.
type window struct{ from, to int64 }

func (l load) window() window {
	from := time.Now().Add(l.warmup)
	return window{from.UnixNano(), from.Add(l.duration).UnixNano()}
}

func (w window) has(t int64) bool { return w.from <= t && t < w.to }

// over tells whether a publisher is to stop.
func (w window) over() bool { return time.Now().UnixNano() >= w.to }

// sample is what was measured, over any number of measurements.
type sample struct {
	seconds   float64
	acked     int // in the window
	delivered int // in the window
	checked   int // acknowledged, warm-up included, and found with every subscriber
	refused   int
	refusal   string // one of them
	publish   *histogram
	receive   *histogram
	cpu       map[string]float64 // CPU seconds in the window, by whose they are
}

func newSample() *sample {
	return &sample{publish: newHistogram(), receive: newHistogram(), cpu: map[string]float64{}}
}

func (s *sample) add(other *sample) {
	s.seconds += other.seconds
	s.acked += other.acked
	s.delivered += other.delivered
	s.checked += other.checked
	s.refused += other.refused
	if other.refusal != "" {
		s.refusal = other.refusal
	}
	s.publish.merge(other.publish)
	s.receive.merge(other.receive)
	for who, seconds := range other.cpu {
		s.cpu[who] += seconds
	}
}

// Result is a measurement.
type Result struct {
	Published    int                `json:"acknowledged"`
	PublishRate  float64            `json:"acknowledged_per_second"`
	Publish      Latency            `json:"publish"`
	Receive      Latency            `json:"publish_to_receive"`
	DeliveryRate float64            `json:"deliveries_per_second"`
	Refused      int                `json:"not_acknowledged"`
	Checked      int                `json:"checked"`             // messages, warm-up included
	CPU          map[string]float64 `json:"cpu_cores,omitempty"` // in use on average, by whose they are
}

func (s *sample) result() Result {
	r := Result{
		Published:    s.acked,
		PublishRate:  ratio(float64(s.acked), s.seconds),
		Publish:      s.publish.latency(),
		Receive:      s.receive.latency(),
		DeliveryRate: ratio(float64(s.delivered), s.seconds),
		Refused:      s.refused,
		Checked:      s.checked,
		CPU:          map[string]float64{},
	}
	for who, seconds := range s.cpu {
		r.CPU[who] = ratio(seconds, s.seconds)
	}
	return r
}

// publisher is one of those who publish in a closed loop: the next message leaves when the last one is
// acknowledged. It is used by one goroutine.
type publisher struct {
	number  int
	offsets []uint64 // by count; 0: not acknowledged
	acked   int      // in the window
	refusal error
	refused int
	publish *histogram
}

// run publishes until the window is over. send sends what data is stamped with.
func (p *publisher) run(w window, data []byte, send func() (uint64, error)) error {
	for count := 0; !w.over(); count++ {
		sent := stamp(data, p.number, count)
		offset, err := send()
		now := time.Now().UnixNano()
		p.offsets = append(p.offsets, offset)
		if err != nil {
			if _, ok := err.(refused); !ok { //nolint:errorlint // send wraps nothing around it
				return fmt.Errorf("publisher %d: %w", p.number, err)
			}
			p.refused++
			p.refusal = err
			continue
		}
		if w.has(now) {
			p.acked++
		}
		if w.has(sent) {
			p.publish.record(now - sent)
		}
	}
	return nil
}
