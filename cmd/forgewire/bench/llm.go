package bench

import (
	"context"
	"errors"
	"fmt"
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

	Setup
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

// Names of what LLM reports.
const (
	llmSingle  = "one at a time"
	llmAdded   = "added to the model"
	llmLoad    = "open loop"
	llmStreams = "streams"
	llmCPU     = "CPU"
	answer     = "answer"
)

// LLM measures the endpoint between a client and a fake model, beside the model itself.
func LLM(ctx context.Context, cfg LLMConfig) (out *Result, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Target.Given() {
		return nil, errNeedsDevstack{"it compares with the model itself, which has to be a fake one: a real one would be paid for"}
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
	where := "Valkey"
	if !sys.valkey {
		where = "no Valkey, for none is installed"
	}
	out = &Result{Bench: "llm", What: fmt.Sprintf("%d replicas with %s before a fake model", cfg.Replicas, where), Notes: []string{"Every answer was whole, and to what was asked."}}
	for _, part := range []struct {
		name    string
		measure func(context.Context, LLMConfig, *llmSystem) ([]*Table, error)
	}{{llmSingle, measureSingle}, {llmLoad, measureLoad}, {llmStreams, measureStreams}} {
		tables, err := part.measure(ctx, cfg, sys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
		out.Tables = append(out.Tables, tables...)
	}
	for _, m := range cfg.Mixes {
		table, err := measureMix(ctx, cfg, sys, m)
		if err != nil {
			return nil, fmt.Errorf("mix %s: %w", m.Name, err)
		}
		out.Tables = append(out.Tables, table)
	}
	return out, nil
}
