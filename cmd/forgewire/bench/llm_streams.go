package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/infra/fakellm"
)

// tokenDelay is how long tokens take from the moment at which the model sends them.
type tokenDelay struct {
	first, all *histogram
	count      int
	cpu        map[string]float64 // microseconds for each token, by whose they are
}

// singleStreams is how many streams are measured with nothing beside them.
const singleStreams = 15

// Names of the distributions of streams.
const (
	firstToken = "first token"
	everyToken = "every token"
)

// measureStreams measures what happens to the tokens of paced streams between the model and the client.
func measureStreams(ctx context.Context, cfg LLMConfig, sys *llmSystem) ([]*Table, error) {
	t := &Table{Name: llmStreams, What: fmt.Sprintf("%.3g tokens a second each, from when the model sends a token until the client has it", float64(time.Second)/float64(pacedInterval)),
		Charts: []Chart{{Title: "lateness of a token", Kind: percentiles, Y: everyToken, Log: true}}}
	cpu := &Table{Name: llmCPU + " of a token"}
	for _, m := range []struct {
		what    string
		targets []target
		streams int
	}{
		{"of the model itself", []target{sys.direct}, cfg.Streams},
		{"through Forgewire", sys.ours, cfg.Streams},
		{"of the model itself", []target{sys.direct}, min(singleStreams, cfg.Streams)},
		{"through Forgewire", sys.ours, min(singleStreams, cfg.Streams)},
	} {
		name := fmt.Sprintf("%d streams %s", m.streams, m.what)
		if t.row(name) != nil {
			continue // there are few
		}
		fmt.Fprintln(cfg.Progress, name)
		d, err := streamAtOnce(ctx, sys, m.targets, m.streams, cfg.Tokens)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, &Row{Name: name, Figures: []Figure{plain("tokens", "", float64(d.count))}, Times: []Times{d.first.times(firstToken), d.all.times(everyToken)}})
		if len(m.targets) > 1 || m.targets[0].key != "" {
			cpu.Rows = append(cpu.Rows, &Row{Name: name, Figures: cpuFigures(d.cpu)})
		}
	}
	return []*Table{t, cpu}, nil
}

// streamAtOnce opens streams, their starts spread over a second, and reads all to their ends.
func streamAtOnce(ctx context.Context, sys *llmSystem, targets []target, streams, tokens int) (*tokenDelay, error) {
	first, all := newHistogram(), newHistogram()
	cpu := sys.system().watched
	before := cpu.each()
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range streams {
		q := sys.unique("paced", true)
		g.Go(func() error {
			c, err := dialLLM(ctx, targets[i%len(targets)])
			if err != nil {
				return err
			}
			defer c.close()
			if !waitUntil(ctx, begin.Add(time.Duration(i)*time.Second/time.Duration(streams)).UnixNano()) {
				return ctx.Err()
			}
			n := 0
			_, err = c.ask(q, func(line []byte) {
				sent, ok := fakellm.Stamp(tokenOf(line))
				if !ok {
					return
				}
				delay := nanoseconds() - sent.UnixNano()
				all.record(delay)
				if n++; n == 1 {
					first.record(delay)
				}
			})
			if err == nil && n != tokens {
				err = fmt.Errorf("%w: %d tokens came and not %d", ErrWrongAnswer, n, tokens)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &tokenDelay{first, all, streams * tokens, perEach(before, cpu.each(), streams*tokens)}, nil
}
