package bench

import (
	"context"
	"fmt"
	"time"
)

// loadWorkers bounds how many requests are under way. More than that wait, which counts.
const loadWorkers = 128

// due is a request and when it is to be sent, from the beginning of a run.
type due struct {
	at time.Duration
	question
}

// measureLoad asks for misses at a fixed rate, of the model itself and through the replicas in turns.
func measureLoad(ctx context.Context, cfg LLMConfig, sys *llmSystem) ([]*Table, error) {
	sides := []*struct {
		name    string
		targets []target
		times   *histogram
		tally   Tally
		cpu     map[string]float64 // seconds
		sent    int
	}{{name: "upstream", targets: []target{sys.direct}}, {name: "miss", targets: sys.ours}}
	cpu := sys.system().watched
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "%d misses a second, round %d of %d\n", cfg.Rate, round+1, cfg.Rounds)
		for _, side := range sides {
			if side.times == nil {
				side.times, side.cpu = newHistogram(), map[string]float64{}
			}
			seconds := cfg.Duration.Seconds() / float64(cfg.Rounds)
			warmup := time.Duration(min(seconds/2, 1) * float64(time.Second))
			requests := make([]due, int(float64(cfg.Rate)*(seconds+warmup.Seconds())))
			for i := range requests {
				requests[i] = due{at: time.Duration(i) * time.Second / time.Duration(cfg.Rate), question: sys.unique("instant", false)}
			}
			before := cpu.each()
			o, err := askAll(ctx, side.targets, loadWorkers, requests, warmup, nil)
			if err != nil {
				return nil, err
			}
			side.times.merge(o.times)
			side.tally.add(&o.tally)
			side.sent += len(requests)
			for name, us := range perEach(before, cpu.each(), 1) {
				side.cpu[name] += us
			}
		}
	}
	t := &Table{Name: llmLoad, What: fmt.Sprintf("%d misses a second, %.3g s each, from when a request is due", cfg.Rate, cfg.Duration.Seconds()),
		Charts: []Chart{{Title: fmt.Sprintf("%d misses a second", cfg.Rate), Kind: percentiles, Y: answer, Log: true}}}
	for _, side := range sides {
		t.Rows = append(t.Rows, &Row{Name: side.name, Times: []Times{side.times.times(answer)}, Tally: &side.tally})
	}
	upstream, miss := t.Rows[0].Times[0], t.Rows[1].Times[0]
	added := &Row{Name: "added", Figures: []Figure{less("p50", "ms", miss.P50-upstream.P50), less("p99", "ms", miss.P99-upstream.P99)}}
	for name := range sides[1].cpu {
		sides[1].cpu[name] /= float64(sides[1].sent)
	}
	return []*Table{t, {Name: llmLoad + ", added", Rows: []*Row{added}}, {Name: llmCPU + " of a miss", Rows: []*Row{{Name: "miss", Figures: cpuFigures(sides[1].cpu)}}}}, nil
}

// askAll sends requests when they are due, over workers that are spread over targets. ended, if any, gets each reply
// and how late its request was sent; it is called by several goroutines at once.
func askAll(ctx context.Context, targets []target, workers int, requests []due, warmup time.Duration, ended func(late time.Duration, r llmReply)) (*outcome, error) {
	return askLoop(targets, workers, requests, warmup, ended).run(ctx)
}

func askLoop(targets []target, workers int, requests []due, warmup time.Duration, ended func(late time.Duration, r llmReply)) openLoop {
	return openLoop{total: len(requests), at: func(i int) time.Duration { return requests[i].at }, warmup: warmup, workers: workers,
		connect: func(ctx context.Context, worker int) (client, error) {
			c, err := dialLLM(ctx, targets[worker%len(targets)])
			return &asker{c, requests, ended}, err
		}}
}

// asker asks the questions of an open loop.
type asker struct {
	*llmConn
	requests []due
	ended    func(late time.Duration, r llmReply)
}

func (a *asker) do(i int, due time.Time) error {
	late := time.Since(due)
	r, err := a.ask(a.requests[i].question, nil)
	if err == nil && a.ended != nil {
		a.ended(late, r)
	}
	return err
}
