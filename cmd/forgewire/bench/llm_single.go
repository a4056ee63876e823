package bench

import (
	"context"
	"errors"
	"fmt"
)

// singleCase is a kind of request that is asked one at a time.
type singleCase struct {
	name, what string
	times      *histogram
	ask        func(i int) (llmReply, error)
	want       string // what the cache has to say; "" for no matter
	ready      func(n int) error
}

// measureSingle lets the cases take turns, each on one connection.
func measureSingle(ctx context.Context, cfg LLMConfig, sys *llmSystem) ([]*Table, error) {
	conns := make([]*llmConn, 0, 3)
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for _, t := range []target{sys.direct, sys.ours[0], sys.ours[len(sys.ours)-1]} {
		c, err := dialLLM(ctx, t)
		if err != nil {
			return nil, err
		}
		conns = append(conns, c)
	}
	cases := sys.singleCases(conns[0], conns[1], conns[2])
	n := cfg.Samples / cfg.Rounds
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "one at a time, round %d of %d\n", round+1, cfg.Rounds)
		for _, c := range cases {
			if err := c.run(n); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	t := &Table{Name: llmSingle, What: "from sending a request until the whole answer is there", Charts: []Chart{{Title: "one request at a time", Kind: bars, Y: answer + " p50"}}}
	for _, c := range cases {
		t.Rows = append(t.Rows, &Row{Name: c.name, What: c.what, Times: []Times{c.times.times(answer)}})
	}
	if cfg.Starts > 0 {
		cold, err := measureStarts(ctx, cfg, sys)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, cold)
	}
	trivial, upstream, miss, hit := t.row("trivial").Times[0], t.row("upstream").Times[0], t.row("miss").Times[0], t.row("hit, local").Times[0]
	return []*Table{t, {Name: llmAdded, Rows: []*Row{
		{Name: "a miss, beside the model", Figures: []Figure{less("p50", "ms", miss.P50-upstream.P50), less("p99", "ms", miss.P99-upstream.P99)}},
		{Name: "a local hit, beside the smallest route", Figures: []Figure{less("p50", "ms", hit.P50-trivial.P50), less("p99", "ms", hit.P99-trivial.P99)}},
	}}}, nil
}

// run takes n samples, after as many that do not count, up to a few.
func (c *singleCase) run(n int) error {
	warmup := min(n, 20)
	if c.ready != nil {
		if err := c.ready(n + warmup); err != nil {
			return err
		}
	}
	for i := range n + warmup {
		r, err := c.ask(i)
		if err != nil {
			return err
		}
		if c.want != "" && r.cache != c.want {
			return fmt.Errorf("it should be a %s and is a %s", c.want, r.cache)
		}
		if i >= warmup {
			c.times.record(int64(r.done))
		}
	}
	return nil
}

func (s *llmSystem) singleCases(direct, ours, other *llmConn) []*singleCase {
	hot := s.unique("instant", false)
	var stored []question // by the other replica
	trivial := ours.target.trivial()
	cases := []*singleCase{
		{name: "trivial", what: "the smallest route of a replica: network and HTTP",
			ask: func(int) (llmReply, error) { return ours.do(trivial, nil) }},
		{name: "upstream", what: "the fake model itself, which answers at once",
			ask: func(int) (llmReply, error) { return direct.ask(s.unique("instant", false), nil) }},
		{name: "miss", what: "through a replica, never asked before", want: "miss",
			ask: func(int) (llmReply, error) { return ours.ask(s.unique("instant", false), nil) }},
		{name: "hit, local", what: "asked before, of this replica", want: "hit",
			ready: func(int) error { return s.store(ours, hot) },
			ask:   func(int) (llmReply, error) { return ours.ask(hot, nil) }},
		{name: "hit, streamed", what: "the same, as a stream", want: "hit",
			ready: func(int) error { return s.store(ours, hot) },
			ask:   func(int) (llmReply, error) { q := hot; q.stream = true; return ours.ask(q, nil) }},
	}
	if s.valkey && len(s.ours) > 1 {
		cases = append(cases, &singleCase{name: "hit, Valkey", what: "asked before, of another replica: the first time here", want: "hit",
			ready: func(n int) error {
				stored = stored[:0]
				for range n {
					q := s.unique("instant", false)
					if err := s.store(other, q); err != nil {
						return err
					}
					stored = append(stored, q)
				}
				return nil
			},
			ask: func(i int) (llmReply, error) { return ours.ask(stored[i], nil) }})
	}
	for _, c := range cases {
		c.times = newHistogram()
	}
	return cases
}

// storeTries bounds how often store asks: storing happens off the request's way.
const storeTries = 1000

// store asks until the answer comes from the cache.
func (s *llmSystem) store(c *llmConn, q question) error {
	for range storeTries {
		r, err := c.ask(q, nil)
		if err != nil || r.cache == "hit" {
			return err
		}
	}
	return errors.New("an answer was not stored")
}

// measureStarts measures the first answer of replicas that have just started, from Valkey, connection and all.
func measureStarts(ctx context.Context, cfg LLMConfig, sys *llmSystem) (*Row, error) {
	times := newHistogram()
	ours, err := dialLLM(ctx, sys.ours[0])
	if err != nil {
		return nil, err
	}
	defer ours.close()
	for i := range cfg.Starts {
		fmt.Fprintf(cfg.Progress, "a replica that has just started, %d of %d\n", i+1, cfg.Starts)
		q := sys.unique("instant", false)
		if err := sys.store(ours, q); err != nil {
			return nil, err
		}
		r, err := startReplica(ctx, cfg.Binary, sys.database, sys.apiKey, sys.environ)
		if err != nil {
			return nil, err
		}
		took, err := firstAnswer(ctx, target{base: r.url, key: sys.apiKey}, q)
		if err = errors.Join(err, r.stop()); err != nil {
			return nil, err
		}
		times.record(took)
	}
	return &Row{Name: "hit, cold", What: "the first request of a replica that has just started, its connection included", Times: []Times{times.times(answer)}}, nil
}

// firstAnswer is how long, in nanoseconds, the first connection takes until it has an answer.
func firstAnswer(ctx context.Context, t target, q question) (int64, error) {
	begun := nanoseconds()
	c, err := dialLLM(ctx, t)
	if err != nil {
		return 0, err
	}
	defer c.close()
	_, err = c.ask(q, nil)
	return nanoseconds() - begun, err
}
