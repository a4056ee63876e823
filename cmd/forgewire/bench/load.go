package bench

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// load is what one measurement does.
type load struct {
	publishers int
	rate       float64 // of all, open loop; 0: closed loop, each as fast as it is answered
	size       int     // of a message's data, in bytes
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
	tally     Tally
	refusal   error // one of them
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
	s.tally.add(&other.tally)
	if other.refusal != nil {
		s.refusal = other.refusal
	}
	s.publish.merge(other.publish)
	s.receive.merge(other.receive)
	for who, seconds := range other.cpu {
		s.cpu[who] += seconds
	}
}

// Names of what a sample's row has.
const (
	acked     = "acknowledged"
	delivered = "delivered"
	publish   = "publish"
	receive   = "receive"
)

// row is the measurement for a report.
func (s *sample) row(name string) *Row {
	return &Row{Name: name,
		Figures: []Figure{more(acked, "/s", ratio(float64(s.acked), s.seconds)), more(delivered, "/s", ratio(float64(s.delivered), s.seconds))},
		Times:   []Times{s.publish.times(publish), s.receive.times(receive)}, Tally: &s.tally}
}

// cpuRow is what everybody took for one acknowledged message.
func (s *sample) cpuRow(name string) *Row {
	each := map[string]float64{}
	for who, seconds := range s.cpu {
		each[who] = ratio(1e6*seconds, float64(s.acked))
	}
	return &Row{Name: name, Figures: cpuFigures(each)}
}

// unknownOffset is what was acknowledged without one: by a COMMIT.
const unknownOffset = math.MaxUint64

// publisher is one of those who publish: in a closed loop, in which the next message leaves when the last one is
// acknowledged, or when a message is due. It is used by one goroutine.
type publisher struct {
	number  int
	offsets []uint64 // by count; 0: not acknowledged
	acked   int      // in the window
	tally   Tally
	refusal error
	publish *histogram
}

// one publishes a message that counts from sent.
func (p *publisher) one(data []byte, sent int64, w window, send func() (uint64, error)) error {
	stampAt(data, p.number, len(p.offsets), sent)
	offset, err := send()
	now := time.Now().UnixNano()
	p.offsets = append(p.offsets, offset)
	if err != nil {
		p.tally.fail(kindOf(err), 1)
		p.refusal = err
		return err
	}
	p.tally.ok(1)
	if w.has(now) {
		p.acked++
	}
	if w.has(sent) {
		p.publish.record(now - sent)
	}
	return nil
}

// run publishes until the window is over. send sends what data is stamped with.
func (p *publisher) run(w window, data []byte, send func() (uint64, error)) error {
	for !w.over() {
		if err := p.one(data, time.Now().UnixNano(), w, send); err != nil && !errors.As(err, new(refused)) {
			return fmt.Errorf("publisher %d: %w", p.number, err)
		}
	}
	return nil
}

// timely is a publisher in an open loop.
type timely struct {
	*publisher
	conn   *publishConn
	window window
}

func (t *timely) do(_ int, due time.Time) error {
	return t.one(t.conn.data, due.UnixNano(), t.window, t.conn.publish)
}

func (t *timely) close() { t.conn.close() }
