package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/infra/fakellm"
)

// LLMStream is what happens to the tokens of paced streams between the model and the client.
type LLMStream struct {
	Streams int        `json:"streams"`
	PerSec  float64    `json:"tokens_per_second_each"`
	Direct  TokenDelay `json:"upstream"`
	Ours    TokenDelay `json:"forgewire"`
	One     TokenDelay `json:"one_stream_upstream"`
	OneOurs TokenDelay `json:"one_stream_forgewire"`
}

// TokenDelay is how long tokens take from the moment at which the model sends them.
type TokenDelay struct {
	First Latency `json:"first_token"`
	All   Latency `json:"all_tokens"`
	Count int     `json:"tokens"`

	// CPU is microseconds for each token, by whose they are.
	CPU map[string]float64 `json:"cpu_us_each,omitempty"`
}

// singleStreams is how many streams are measured with nothing beside them.
const singleStreams = 15

func measureStreams(ctx context.Context, cfg LLMConfig, sys *llmSystem) (*LLMStream, error) {
	out := &LLMStream{Streams: cfg.Streams, PerSec: float64(time.Second) / float64(pacedInterval)}
	for _, m := range []struct {
		what    string
		targets []target
		streams int
		into    *TokenDelay
	}{
		{"of the model itself", []target{sys.direct}, cfg.Streams, &out.Direct},
		{"through the replicas", sys.ours, cfg.Streams, &out.Ours},
		{"of the model itself", []target{sys.direct}, min(singleStreams, cfg.Streams), &out.One},
		{"through the replicas", sys.ours, min(singleStreams, cfg.Streams), &out.OneOurs},
	} {
		fmt.Fprintf(cfg.Progress, "%d streams at once, %s\n", m.streams, m.what)
		d, err := streamAtOnce(ctx, sys, m.targets, m.streams, cfg.Tokens)
		if err != nil {
			return nil, err
		}
		*m.into = d
	}
	return out, nil
}

// streamAtOnce opens streams, their starts spread over a second, and reads all to their ends.
func streamAtOnce(ctx context.Context, sys *llmSystem, targets []target, streams, tokens int) (TokenDelay, error) {
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
		return TokenDelay{}, err
	}
	return TokenDelay{First: first.latency(), All: all.latency(), Count: streams * tokens,
		CPU: perEach(before, cpu.each(), streams*tokens)}, nil
}
