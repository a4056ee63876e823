package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// LLMConfig says how LLM measures.
type LLMConfig struct {
	Replicas int
	Samples  int           // of each case, one after the other
	Rounds   int           // in how many parts, in which the cases take turns
	Starts   int           // of a replica, for the first answer after one
	Rate     int           // misses a second, open loop
	Duration time.Duration // of the open loop, and of each mix
	Streams  int           // at once
	Tokens   int           // of each of these streams
	Seed     uint64        // of the mixes
	Mixes    []Mix         // nil for all of ours

	Binary   string    // forgewire, for the replicas
	Environ  []string  // of which the replicas get the variables of the Go runtime
	Progress io.Writer // gets a line for each step
}

func (c *LLMConfig) check() error {
	if c.Replicas < 1 || c.Samples < 1 || c.Rounds < 1 || c.Starts < 0 || c.Rate < 1 || c.Duration <= 0 || c.Streams < 1 || c.Tokens < 2 {
		return errors.New("replicas, samples, rounds, rate, duration, streams and tokens must be positive")
	}
	if c.Samples < c.Rounds {
		return errors.New("there must be at least one sample in each round")
	}
	return nil
}

// LLMReport is what LLM found.
type LLMReport struct {
	CPUs     int        `json:"cpus"`
	Replicas int        `json:"replicas"`
	Valkey   bool       `json:"valkey"` // false: each replica had only its own memory
	Single   []LLMCase  `json:"one_at_a_time"`
	Load     *LLMLoad   `json:"open_loop"`
	Streams  *LLMStream `json:"streams"`
	Mixes    []MixRun   `json:"mixes"`
}

// LLMCase is the time of one kind of request, asked one at a time.
type LLMCase struct {
	Name    string  `json:"name"`
	What    string  `json:"what"`
	Samples int     `json:"samples"`
	Time    Latency `json:"time"`
}

// LLM measures the endpoint between a client and a fake model, beside the model itself.
func LLM(ctx context.Context, cfg LLMConfig) (report *LLMReport, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Mixes == nil {
		cfg.Mixes = Mixes(cfg.Duration)
	}
	fmt.Fprintf(cfg.Progress, "starting a private PostgreSQL, Valkey, a fake model and %d replicas\n", cfg.Replicas)
	sys, err := startLLM(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.stop(ctx)) }()
	report = &LLMReport{CPUs: runtime.NumCPU(), Replicas: cfg.Replicas, Valkey: sys.valkey}
	if report.Single, err = measureSingle(ctx, cfg, sys); err != nil {
		return nil, fmt.Errorf("one at a time: %w", err)
	}
	if report.Load, err = measureLoad(ctx, cfg, sys); err != nil {
		return nil, fmt.Errorf("open loop: %w", err)
	}
	if report.Streams, err = measureStreams(ctx, cfg, sys); err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	for _, m := range cfg.Mixes {
		run, err := measureMix(ctx, cfg, sys, m)
		if err != nil {
			return nil, fmt.Errorf("mix %s: %w", m.Name, err)
		}
		report.Mixes = append(report.Mixes, run)
	}
	return report, nil
}
