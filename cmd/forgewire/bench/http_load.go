package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
)

const (
	httpWorkers = 64  // connections, and how many requests may be under way: more wait, which counts
	rampGrowth  = 1.6 // of the rate from one step to the next
	maxSteps    = 20  // of one ramp
	longestStep = 4 * time.Second
	saturated   = 0.9 // the share of what was due below which a rate is more than a server takes
	overload    = 1.5 // of the highest rate that a ramp reached: nobody waits for work there
)

// httpSide is whom to ask, and what.
type httpSide struct {
	host    string
	process string                         // as httpSystem.processes names it
	want    int                            // the status of success
	request func(buf []byte, n int) []byte // the n-th request that was ever sent, appended to buf
	sent    *atomic.Int64
}

// HTTPStep is one rate for one step's time, whatever the server does: a late answer delays no request. Times count from
// when a request was due until the answer was whole, and those that were not answered by the end count with what they
// had waited by then.
type HTTPStep struct {
	Offered  float64  `json:"offered_per_s"`
	Achieved float64  `json:"answered_per_s"`
	Failed   int      `json:"failed"` // answered with another status
	Time     HTTPTime `json:"time"`

	done int // answered, also after the end
}

// HTTPTime is a distribution, in milliseconds.
type HTTPTime struct {
	Min  float64 `json:"min_ms"`
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P95  float64 `json:"p95_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

func timesOf(h *hdrhistogram.Histogram) HTTPTime {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	return HTTPTime{Min: float64(h.Min()) / 1000, Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P95: at(95), P99: at(99), Max: float64(h.Max()) / 1000}
}

// ramp raises the rate until the server takes no more, and returns the highest rate that it answered.
func ramp(ctx context.Context, side httpSide, start float64, duration time.Duration) (steps []HTTPStep, peak float64, err error) {
	for rate := start; len(steps) < maxSteps; rate *= rampGrowth {
		s, err := openStep(ctx, side, rate, duration)
		if err != nil {
			return nil, 0, err
		}
		steps, peak = append(steps, s), max(peak, s.Achieved)
		if s.Achieved < saturated*s.Offered {
			break
		}
	}
	if peak == 0 && duration < longestStep { // the steps were too short for a single answer
		return ramp(ctx, side, start, 4*duration)
	}
	if peak == 0 {
		return nil, 0, errors.New("nothing was answered")
	}
	return steps, peak, nil
}

// saturate asks for more than the server can answer, and measures the CPU time of an answer.
func (s *httpSystem) saturate(ctx context.Context, side httpSide, peak float64, duration time.Duration) (HTTPStep, map[string]float64, error) {
	cpu := s.processes(side.process)
	before := cpu.each()
	step, err := openStep(ctx, side, peak*overload, duration)
	if err != nil || step.done == 0 {
		return step, nil, err
	}
	return step, perEach(before, cpu.each(), step.done), nil
}

// stepWorker is one connection's part of a step.
type stepWorker struct {
	times    *histogram
	done     int
	answered int // before the end
	failed   int
}

// openStep offers a rate for a time.
func openStep(ctx context.Context, side httpSide, rate float64, duration time.Duration) (HTTPStep, error) {
	total := max(int(rate*duration.Seconds()), 1)
	every := time.Duration(float64(time.Second) / rate)
	workers := make([]*stepWorker, min(httpWorkers, total))
	conns := make([]*rawConn, 0, len(workers))
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for i := range workers {
		c, err := dialRaw(ctx, side.host)
		if err != nil {
			return HTTPStep{}, err
		}
		conns, workers[i] = append(conns, c), &stepWorker{times: newHistogram()}
	}
	var next atomic.Int64
	begin := time.Now()
	end := begin.Add(duration)
	var g errgroup.Group
	for i, w := range workers {
		g.Go(func() error {
			return w.run(ctx, conns[i], side, func() (due time.Time, ok bool) {
				if time.Now().After(end) {
					return due, false
				}
				n := next.Add(1) - 1
				return begin.Add(time.Duration(n) * every), n < int64(total)
			}, end)
		})
	}
	if err := g.Wait(); err != nil {
		return HTTPStep{}, err
	}
	s := HTTPStep{Offered: float64(total) / duration.Seconds()}
	all, answered := workers[0].times, 0
	for i, w := range workers {
		s.done += w.done
		if s.Failed += w.failed; i > 0 {
			all.merge(w.times)
		}
		answered += w.answered
	}
	for n := next.Load(); n < int64(total); n++ { // nobody came to send these
		all.add(int64(end.Sub(begin.Add(time.Duration(n) * every))))
	}
	s.Achieved, s.Time = float64(answered)/duration.Seconds(), timesOf(all.h)
	return s, nil
}

// run sends what is due next, one after the other.
func (w *stepWorker) run(ctx context.Context, c *rawConn, side httpSide, take func() (due time.Time, ok bool), end time.Time) error {
	var buf []byte
	for {
		due, ok := take()
		if !ok {
			return nil
		}
		if time.Until(due) > 0 && !waitUntil(ctx, due.UnixNano()) {
			return ctx.Err() //nolint:wrapcheck // the caller's own
		}
		buf = side.request(buf[:0], int(side.sent.Add(1)))
		status, _, err := c.do(buf, nil)
		if err != nil {
			return fmt.Errorf("a request: %w", err)
		}
		now := time.Now()
		w.done++
		w.times.add(int64(now.Sub(due))) // its own, so nobody else has the lock
		switch {
		case status != side.want:
			w.failed++
		case now.Before(end):
			w.answered++
		}
	}
}
