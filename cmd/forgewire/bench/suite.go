package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"forgewire/infra/devstack"
)

// SuiteConfig says how Suite runs all benchmarks.
type SuiteConfig struct {
	CrowdConfig

	Quick bool     // small and short: whether it works, not how well
	Only  []string // nil for all
}

// suitePart is one benchmark, as Suite runs it.
type suitePart struct {
	name string
	run  func(ctx context.Context, s Setup) (*Result, error)
}

// parts are the benchmarks at a size: all of them take about a quarter of an hour, or two minutes.
func (c SuiteConfig) parts() []suitePart {
	pick := func(quick, whole int) int {
		if c.Quick {
			return quick
		}
		return whole
	}
	seconds := func(quick, whole float64) time.Duration {
		if c.Quick {
			whole = quick
		}
		return time.Duration(whole * float64(time.Second))
	}
	crowd := func(s Setup) CrowdConfig { return CrowdConfig{Setup: s, Peer: c.Peer} }
	connections, rates, mixes := []int{10_000, 19_000}, []int{2000, 8000}, []Mix{Mixes(seconds(4, 20))[0]}
	if c.Quick {
		connections, rates = []int{1000}, []int{500}
	} else {
		mixes = append(mixes, Mixes(10 * time.Second)[1])
	}
	return []suitePart{
		{"fanout", func(ctx context.Context, s Setup) (*Result, error) {
			return Fanout(ctx, FanoutConfig{Setup: s, Publishers: 64, Replicas: 2, Channels: 1, Size: 150, Rates: rates, Duration: seconds(1, 8),
				Warmup: seconds(0.3, 1), Rounds: pick(1, 2), Idle: seconds(1, 10)})
		}},
		{"sql", func(ctx context.Context, s Setup) (*Result, error) {
			if s.Target.Given() {
				return nil, errNeedsDevstack{"it measures the database of a replica that has nothing else to do"}
			}
			if _, err := devstack.Command(ctx, "pgbench"); err != nil {
				return nil, errNeedsDevstack{fmt.Sprintf("and pgbench: %v", err)}
			}
			return SQL(ctx, SQLConfig{Setup: s, Writers: 32, Rounds: pick(1, 3), Slice: seconds(1, 2), Warmup: seconds(0, 1)})
		}},
		{"connections", func(ctx context.Context, s Setup) (*Result, error) {
			return Connections(ctx, ConnectionsConfig{CrowdConfig: crowd(s), Connections: connections, Replicas: 1, Rounds: pick(1, 3), Rate: pick(1000, 2000),
				Settle: seconds(0.5, 10), Idle: seconds(1, 25)})
		}},
		{"broadcast", func(ctx context.Context, s Setup) (*Result, error) {
			return Broadcast(ctx, BroadcastConfig{CrowdConfig: crowd(s), Clients: pick(1000, 10_000), Size: 128, Messages: pick(5, 20), Backlog: pick(20, 100),
				Rounds: pick(1, 3), Rate: 5, Duration: seconds(1, 5)})
		}},
		{"resume", func(ctx context.Context, s Setup) (*Result, error) {
			return Resume(ctx, ResumeConfig{CrowdConfig: crowd(s), Clients: pick(200, 1000), Missed: pick(200, 1000), Size: 128, Rounds: pick(1, 5)})
		}},
		{"presence", func(ctx context.Context, s Setup) (*Result, error) {
			return Presence(ctx, PresenceConfig{CrowdConfig: crowd(s), Clients: pick(1000, 10_000), Listed: pick(100, 1000), Replicas: 1, Callers: 8,
				Rate: pick(200, 1000), Duration: seconds(0.5, 3)})
		}},
		{"llm", func(ctx context.Context, s Setup) (*Result, error) {
			return LLM(ctx, LLMConfig{Setup: s, Replicas: 2, Samples: pick(100, 1000), Rounds: pick(1, 2), Starts: pick(1, 3), Rate: pick(200, 1000),
				Duration: seconds(1, 8), Streams: pick(50, 500), Tokens: pick(20, 60), Seed: 1, Mixes: mixes})
		}},
		{"http", func(ctx context.Context, s Setup) (*Result, error) {
			return HTTP(ctx, HTTPConfig{Setup: s, Duration: seconds(0.15, 1), Rounds: pick(1, 3), Users: 100, Requests: 10, Rows: 10_000})
		}},
		{"mixed", func(ctx context.Context, s Setup) (*Result, error) {
			return Mixed(ctx, MixedConfig{Setup: s, Replicas: 2, Subscribers: 20, Channels: 4, Size: 150, Publish: 500, SQL: 100, LLM: 100, Cached: 500, Uncached: 100,
				Write: 20, Warmup: seconds(0.5, MixedWarmup.Seconds()), Duration: seconds(4, 30), Seed: 1})
		}},
	}
}

// Suite runs all benchmarks, one after the other, and adds their results to the report: also of what failed or was left
// out, and why. Its error is that of what failed.
func Suite(ctx context.Context, cfg SuiteConfig, report *Report) error {
	parts := cfg.parts()
	for _, name := range cfg.Only {
		if !slices.ContainsFunc(parts, func(p suitePart) bool { return p.name == name }) {
			return fmt.Errorf("there is no benchmark %q", name)
		}
	}
	if len(cfg.Only) > 0 {
		parts = slices.DeleteFunc(parts, func(p suitePart) bool { return !slices.Contains(cfg.Only, p.name) })
	}
	var failed []error
	for i, p := range parts {
		s := cfg.Setup
		s.Machine = &report.Machine
		s.Progress = &progress{to: cfg.Progress, since: report.Started, head: fmt.Sprintf("%d/%d %s", i+1, len(parts), p.name)}
		fmt.Fprintln(s.Progress, "begins")
		r, err := p.run(ctx, s)
		switch {
		case ctx.Err() != nil:
			return ctx.Err() //nolint:wrapcheck // the caller's own
		case unmeasurable(err):
			r = &Result{Bench: p.name, What: "not measured", Skipped: err.Error()}
		case err != nil:
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
			r = &Result{Bench: p.name, What: "not measured", Failed: err.Error()}
		}
		report.Add(r)
	}
	return errors.Join(failed...)
}

// progress puts in front of each line where the suite is.
type progress struct {
	to    io.Writer
	since time.Time
	head  string
}

func (p *progress) Write(b []byte) (int, error) {
	at := time.Since(p.since).Truncate(time.Second)
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Fprintf(p.to, "[%02d:%02d %s] %s\n", int(at.Minutes()), int(at.Seconds())%60, p.head, strings.TrimSuffix(line, "\n")); err != nil {
			return 0, fmt.Errorf("tell the progress: %w", err)
		}
	}
	return len(b), nil
}
