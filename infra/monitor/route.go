package monitor

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What a histogram tells apart: from 1 µs to an hour, to two significant digits, so within a hundredth.
const (
	lowest  = 1 // microseconds
	highest = int64(time.Hour / time.Microsecond)
	digits  = 2
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(lowest, highest, digits) }

// stripes is how many histograms a route has at most: a second one is made when two requests meet at the first.
const stripes = 4

// route counts the requests of one method and pattern.
type route struct {
	key     routeKey
	classes [6]atomic.Uint64 // of statuses, by their first digit; 0 for any other
	micros  atomic.Uint64    // the sum of all durations
	next    atomic.Uint64
	window  [maxWindow]atomic.Uint64 // the last durations in nanoseconds, plus one: 0 is none
	stripes [stripes]stripe
}

type stripe struct {
	mu   sync.Mutex
	hist *hdrhistogram.Histogram // made when it is first needed: 20 KB
	_    [40]byte                // on a cache line of its own
}

func newRoute(key routeKey) *route { return &route{key: key} }

func (r *route) add(took time.Duration, status int) {
	class := status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	r.classes[class].Add(1)
	r.window[(r.next.Add(1)-1)%maxWindow].Store(uint64(max(0, took)) + 1)
	value := min(max(took.Microseconds(), lowest), highest)
	r.micros.Add(uint64(value))
	for i := range stripes - 1 {
		if s := &r.stripes[i]; s.mu.TryLock() {
			s.record(value)
			return
		}
	}
	s := &r.stripes[stripes-1]
	s.mu.Lock()
	s.record(value)
}

// record adds a value, and unlocks.
func (s *stripe) record(value int64) {
	defer s.mu.Unlock()
	if s.hist == nil {
		s.hist = newHistogram()
	}
	_ = s.hist.RecordValue(value) // it is in the histogram's range
}

// total is the histogram since the start.
func (r *route) total() *hdrhistogram.Histogram {
	sum := newHistogram()
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		if s.hist != nil {
			sum.Merge(s.hist)
		}
		s.mu.Unlock()
	}
	return sum
}

// last returns the durations of the window in nanoseconds, in no order.
func (r *route) last() []uint64 {
	var all []uint64
	for i := range r.window {
		if d := r.window[i].Load(); d > 0 {
			all = append(all, d-1)
		}
	}
	return all
}
