package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// SuiteRun is the user guide's load test: users at once, each with a number of requests, of which one in ten writes, two
// read the database and the others come from the cache.
type SuiteRun struct {
	Name      string      `json:"name"`
	Users     int         `json:"users"`
	Requests  int         `json:"requests"`
	Succeeded int         `json:"succeeded"`
	Success   float64     `json:"success"` // a share
	PerSecond float64     `json:"per_second"`
	Time      HTTPTime    `json:"time"`
	Asserts   []Assertion `json:"assertions"`
}

// Assertion is one of the guide's, and whether it held. A run does not fail of it: machines differ.
type Assertion struct {
	What string `json:"what"`
	Held bool   `json:"held"`
}

// suitePace is how far apart the requests of one user are where they are due at times.
const suitePace = 100 * time.Millisecond

// measureSuite runs it as the guide has it, each user sending as fast as it is answered, which hides what waits behind a
// late answer; and with each request due at its own time.
func measureSuite(ctx context.Context, cfg HTTPConfig, sys *httpSystem) ([]SuiteRun, error) {
	fmt.Fprintf(cfg.Progress, "the guide's suite: %d users with %d requests each, twice\n", cfg.Users, cfg.Requests)
	var runs []SuiteRun
	for _, open := range []bool{false, true} {
		r, err := runSuite(ctx, cfg, sys, open)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

func runSuite(ctx context.Context, cfg HTTPConfig, sys *httpSystem, open bool) (SuiteRun, error) {
	out := SuiteRun{Name: "as written: the next request leaves with the last answer", Users: cfg.Users, Requests: cfg.Users * cfg.Requests}
	if open {
		out.Name = fmt.Sprintf("open loop: a request of each user every %v, timed from when it is due", suitePace)
	}
	kinds := sys.kinds()
	times, succeeded := newHistogram(), atomic.Int64{}
	conns := make([]*rawConn, 0, cfg.Users)
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for range cfg.Users {
		c, err := dialRaw(ctx, kinds[0].ours.host)
		if err != nil {
			return out, err
		}
		conns = append(conns, c)
	}
	var g errgroup.Group
	begin := time.Now()
	for user, c := range conns {
		g.Go(func() error {
			for i := range cfg.Requests {
				due := time.Now()
				if open {
					due = begin.Add(time.Duration(i)*suitePace + suitePace*time.Duration(user)/time.Duration(cfg.Users))
					if time.Until(due) > 0 && !waitUntil(ctx, due.UnixNano()) {
						return ctx.Err() //nolint:wrapcheck // the caller's own
					}
				}
				side := suiteSide(kinds, user+i)
				status, _, err := c.do(side.request(nil, int(sys.sent.Add(1))), nil)
				if err != nil {
					return fmt.Errorf("user %d: %w", user, err)
				}
				times.record(int64(time.Since(due)))
				if status == side.want {
					succeeded.Add(1)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return out, err
	}
	out.Succeeded, out.PerSecond = int(succeeded.Load()), float64(out.Requests)/time.Since(begin).Seconds()
	out.Success, out.Time = ratio(float64(out.Succeeded), float64(out.Requests)), timesOf(times.h)
	out.Asserts = out.assertions()
	return out, nil
}

// suiteSide mixes the cases.
func suiteSide(kinds []httpKind, n int) httpSide {
	switch n % 10 {
	case 0:
		return kinds[3].ours
	case 1, 2:
		return kinds[1].ours
	}
	return kinds[0].ours
}

// assertions are the guide's own.
func (r *SuiteRun) assertions() []Assertion {
	return []Assertion{
		{fmt.Sprintf("success over 95 %%: %.1f %%", 100*r.Success), r.Success > 0.95},
		{fmt.Sprintf("p95 under 200 ms: %.1f ms", r.Time.P95), r.Time.P95 < 200},
		{fmt.Sprintf("average under 100 ms: %.1f ms", r.Time.Mean), r.Time.Mean < 100},
	}
}
