package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// suitePace is how far apart the requests of one user are where they are due at times.
const suitePace = 100 * time.Millisecond

// measureSuite is the user guide's load test: users at once, each with a number of requests, of which one in ten writes,
// two read the database and the others come from the cache. It runs as the guide has it, each user sending as fast as it
// is answered, which hides what waits behind a late answer; and with each request due at its own time.
func measureSuite(ctx context.Context, cfg HTTPConfig, sys *httpSystem) (*Table, error) {
	fmt.Fprintf(cfg.Progress, "%s: %d users with %d requests each, twice\n", httpSuiteName, cfg.Users, cfg.Requests)
	t := &Table{Name: httpSuiteName, What: fmt.Sprintf("%d users and %d requests; in the open loop one of each user every %v, timed from when it is due", cfg.Users, cfg.Users*cfg.Requests, suitePace)}
	for _, open := range []bool{false, true} {
		r, err := runSuite(ctx, cfg, sys, open)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, r)
	}
	return t, nil
}

func runSuite(ctx context.Context, cfg HTTPConfig, sys *httpSystem, open bool) (*Row, error) {
	out := &Row{Name: "as written"}
	if open {
		out.Name = "open loop"
	}
	kinds := sys.kinds()
	times, results := newHistogram(), make([]Tally, cfg.Users)
	conns := make([]*rawConn, 0, cfg.Users)
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for range cfg.Users {
		c, err := dialRaw(ctx, kinds[0].ours.base)
		if err != nil {
			return nil, err
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
				status, _, err := c.do(side.request(nil, int(sys.sent.Add(1))), io.Discard)
				if err != nil {
					return fmt.Errorf("user %d: %w", user, err)
				}
				times.record(int64(time.Since(due)))
				if status == side.want {
					results[user].ok(1)
				} else {
					results[user].fail(kindOf(refusal(status, nil)), 1)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out.Tally = &Tally{}
	for i := range results {
		out.Tally.add(&results[i])
	}
	took := times.times(answer)
	out.Figures = []Figure{plain(answered, "/s", float64(cfg.Users*cfg.Requests)/time.Since(begin).Seconds()),
		plain("assertions met", "of 3", assertions(out.Tally.Success(), took))}
	out.Times = []Times{took}
	return out, nil
}

// suiteWrite is which of the cases writes.
func suiteWrite(kinds []httpKind) int {
	return slices.IndexFunc(kinds, func(k httpKind) bool { return k.name == writes })
}

// suiteSide mixes the cases.
func suiteSide(kinds []httpKind, n int) httpSide {
	switch n % 10 {
	case 0:
		return kinds[suiteWrite(kinds)].ours
	case 1, 2:
		return kinds[1].ours
	}
	return kinds[0].ours
}

// assertions are how many of the guide's hold: success over 95 %, p95 under 200 ms, average under 100 ms. A run does not
// fail of them: machines differ.
func assertions(success float64, t Times) (met float64) {
	for _, held := range []bool{success > 0.95, t.P95 < 200, t.Mean < 100} {
		if held {
			met++
		}
	}
	return met
}
