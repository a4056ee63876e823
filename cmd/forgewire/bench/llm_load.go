package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// LLMLoad is misses at a fixed rate, whatever the server does: a late answer delays no request, and each time
// counts from when the request was due.
type LLMLoad struct {
	Rate     int     `json:"per_second"`
	Seconds  float64 `json:"seconds"`
	Upstream Latency `json:"upstream"`
	Miss     Latency `json:"miss"`
	AddedP50 float64 `json:"added_p50_ms"`
	AddedP99 float64 `json:"added_p99_ms"`

	// CPU is microseconds for each miss, by whose they are: what is left to judge by where the machine is busy.
	CPU map[string]float64 `json:"cpu_us_each,omitempty"`
}

// loadWorkers bounds how many requests are under way. More than that wait, which counts.
const loadWorkers = 128

// due is a request and when it is to be sent, from the beginning of a run.
type due struct {
	at time.Duration
	question
}

func measureLoad(ctx context.Context, cfg LLMConfig, sys *llmSystem) (*LLMLoad, error) {
	upstream, miss := newHistogram(), newHistogram()
	sent, used := 0, map[string]float64{}
	cpu := sys.system().watched
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "%d misses a second, round %d of %d\n", cfg.Rate, round+1, cfg.Rounds)
		for _, side := range []struct {
			targets []target
			times   *histogram
		}{{[]target{sys.direct}, upstream}, {sys.ours, miss}} {
			seconds := cfg.Duration.Seconds() / float64(cfg.Rounds)
			warmup := time.Duration(min(seconds/2, 1) * float64(time.Second))
			requests := make([]due, int(float64(cfg.Rate)*(seconds+warmup.Seconds())))
			for i := range requests {
				requests[i] = due{at: time.Duration(i) * time.Second / time.Duration(cfg.Rate), question: sys.unique("instant", false)}
			}
			before := cpu.each()
			err := openLoop(ctx, side.targets, loadWorkers, requests, func(d due, late time.Duration, r llmReply) {
				if d.at >= warmup {
					side.times.record(int64(late + r.done))
				}
			})
			if err != nil {
				return nil, err
			}
			if side.times == miss {
				sent += len(requests)
				for name, us := range perEach(before, cpu.each(), 1) {
					used[name] += us
				}
			}
		}
	}
	for name := range used {
		used[name] /= float64(sent)
	}
	out := &LLMLoad{Rate: cfg.Rate, Seconds: cfg.Duration.Seconds(), Upstream: upstream.latency(), Miss: miss.latency(), CPU: used}
	out.AddedP50, out.AddedP99 = out.Miss.P50-out.Upstream.P50, out.Miss.P99-out.Upstream.P99
	return out, nil
}

// openLoop sends requests when they are due, over workers that are spread over targets. ended gets each reply
// and how late its request was sent; it is called by several goroutines at once.
func openLoop(ctx context.Context, targets []target, workers int, requests []due, ended func(d due, late time.Duration, r llmReply)) error {
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now().Add(50 * time.Millisecond)
	var next atomic.Int64
	for worker := range workers {
		g.Go(func() error {
			var c *llmConn
			defer func() {
				if c != nil {
					c.close()
				}
			}()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					return nil
				}
				d := requests[i]
				if !waitUntil(ctx, begin.Add(d.at).UnixNano()) {
					return ctx.Err()
				}
				late := time.Since(begin.Add(d.at))
				if c == nil { // only now: a server closes connections on which nothing comes
					var err error
					if c, err = dialLLM(ctx, targets[worker%len(targets)]); err != nil {
						return err
					}
				}
				r, err := c.ask(d.question, nil)
				if err != nil {
					return fmt.Errorf("request %d: %w", i, err)
				}
				ended(d, late, r)
			}
		})
	}
	return g.Wait()
}
