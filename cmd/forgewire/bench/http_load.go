package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync/atomic"
	"time"
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
	base    *url.URL
	process string                         // as httpSystem.processes names it
	want    int                            // the status of success
	request func(buf []byte, n int) []byte // the n-th request that was ever sent, appended to buf
	sent    *atomic.Int64
}

// httpStep is one rate for one step's time. Those that were not sent by the end count with what they had waited by then.
type httpStep struct {
	offered  float64
	achieved float64
	*outcome
}

func (s httpStep) row(name, series string) *Row {
	return &Row{Name: name, Series: series, Figures: []Figure{plain(offered, "/s", s.offered), plain(answered, "/s", s.achieved)},
		Times: []Times{s.times.times(answer)}, Tally: &s.tally}
}

// ramp raises the rate until the server takes no more.
func ramp(ctx context.Context, side httpSide, start float64, duration time.Duration) (steps []httpStep, err error) {
	peak := 0.0
	for rate := start; len(steps) < maxSteps; rate *= rampGrowth {
		s, err := openStep(ctx, side, rate, duration)
		if err != nil {
			return nil, err
		}
		steps, peak = append(steps, s), max(peak, s.achieved)
		if s.achieved < saturated*s.offered {
			break
		}
	}
	if peak == 0 && duration < longestStep { // the steps were too short for a single answer
		return ramp(ctx, side, start, 4*duration)
	}
	if peak == 0 {
		return nil, fmt.Errorf("nothing was answered: %w", errors.Join(steps[0].last, errUnexpected))
	}
	return steps, nil
}

// saturate asks for more than the server can answer, and measures the CPU time of an answer.
func (s *httpSystem) saturate(ctx context.Context, side httpSide, peak float64, duration time.Duration) (httpStep, map[string]float64, error) {
	if s.stack == nil {
		step, err := openStep(ctx, side, peak*overload, duration)
		return step, nil, err
	}
	cpu := s.processes(side.process)
	before := cpu.each()
	step, err := openStep(ctx, side, peak*overload, duration)
	if err != nil || step.ended == 0 {
		return step, nil, err
	}
	return step, perEach(before, cpu.each(), step.ended), nil
}

// openStep offers a rate for a time.
func openStep(ctx context.Context, side httpSide, rate float64, duration time.Duration) (httpStep, error) {
	total := max(int(rate*duration.Seconds()), 1)
	o, err := openLoop{total: total, at: evenly(rate), until: duration, workers: httpWorkers, connect: func(ctx context.Context, _ int) (client, error) {
		return side.client(ctx)
	}}.run(ctx)
	if err != nil {
		return httpStep{}, err
	}
	return httpStep{offered: float64(total) / duration.Seconds(), achieved: float64(o.inTime) / duration.Seconds(), outcome: o}, nil
}

// httpClient sends a side's requests.
type httpClient struct {
	*rawConn
	side httpSide
	buf  []byte
}

func (s httpSide) client(ctx context.Context) (client, error) {
	c, err := dialRaw(ctx, s.base)
	if err != nil {
		return nil, err
	}
	return &httpClient{rawConn: c, side: s}, nil
}

func (c *httpClient) do(int, time.Time) error {
	c.buf = c.side.request(c.buf[:0], int(c.side.sent.Add(1)))
	status, _, err := c.rawConn.do(c.buf, io.Discard)
	if err == nil && status != c.side.want {
		err = refusal(status, nil)
	}
	return err
}
