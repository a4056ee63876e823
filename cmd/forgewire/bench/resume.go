package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// ResumeConfig says what Resume measures.
type ResumeConfig struct {
	CrowdConfig

	Clients int
	Missed  int // messages, by each
	Size    int // of a message's data, in bytes
	Rounds  int // in which the contenders take turns; medians are reported
}

// ResumeReport is what Resume found.
type ResumeReport struct {
	Clients int            `json:"clients"`
	Missed  int            `json:"missed"`
	Size    int            `json:"size"`
	Rounds  int            `json:"rounds"`
	Results []ResumeResult `json:"results"` // Forgewire, and the peer if there is one
}

// ResumeResult is how one contender brings back what was missed.
type ResumeResult struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"` // from the first handshake until everybody has everything
	Rate    float64 `json:"messages_per_second"`
	CPU     float64 `json:"cpu_us_per_message"` // of the server
	seconds []float64
	cpu     []float64
}

// Resume measures how long it takes until clients that come back all at once have what they missed.
func Resume(ctx context.Context, cfg ResumeConfig) (report *ResumeReport, err error) {
	if cfg.Clients < 1 || cfg.Missed < 1 || cfg.Rounds < 1 || cfg.Size < minCrowdData {
		return nil, fmt.Errorf("clients, missed messages and rounds must be positive, and the size at least %d", minCrowdData)
	}
	all, err := cfg.contenders(ctx, 1, cfg.Clients)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	report = &ResumeReport{Clients: cfg.Clients, Missed: cfg.Missed, Size: cfg.Size, Rounds: cfg.Rounds, Results: make([]ResumeResult, len(all))}
	for round := range cfg.Rounds {
		for i, c := range all {
			fmt.Fprintf(cfg.Progress, "%s: round %d of %d\n", c.name, round+1, cfg.Rounds)
			took, cpu, err := cfg.round(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			m := &report.Results[i]
			m.Name, m.seconds, m.cpu = c.name, append(m.seconds, took.Seconds()), append(m.cpu, cpu)
		}
	}
	for i := range report.Results {
		m := &report.Results[i]
		m.Seconds, m.CPU = median(m.seconds), median(m.cpu)
		m.Rate = ratio(float64(cfg.Clients*cfg.Missed), m.Seconds)
	}
	return report, nil
}

// round lets clients come back to a channel of its own.
func (cfg *ResumeConfig) round(ctx context.Context, c *contender) (took time.Duration, cpu float64, err error) {
	channel := "past:" + rand.Text()[:8]
	var from since
	if err = c.call(ctx, 0, "history", map[string]any{"channel": channel}, &from); err != nil {
		return 0, 0, err
	}
	if err = c.publish(ctx, channel, 0, cfg.Missed, cfg.Size); err != nil {
		return 0, 0, err
	}
	crowd, err := startCrowd(ctx, cfg.Binary, channel, c.servers(), cfg.Clients)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err = crowd.open(ctx, &from); err != nil {
		return 0, 0, err
	}
	end, err := crowd.await(ctx, cfg.Missed)
	if err != nil {
		return 0, 0, err
	}
	after, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return 0, 0, err
	}
	return end.Sub(start), ratio(float64((after[0]-before[0]).Nanoseconds())/1e3, float64(cfg.Clients*cfg.Missed)), crowd.close(ctx)
}

// Print writes the report for people.
func (r *ResumeReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nresume: %d clients come back at once, each of which missed %d messages of %d bytes; medians of %d rounds\n\n", r.Clients, r.Missed, r.Size, r.Rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tuntil all have all\tmessages/s\tCPU each\t")
	for _, m := range r.Results {
		fmt.Fprintf(t, "%s\t%.2f s\t%.0f\t%.2f µs\t\n", m.Name, m.Seconds, m.Rate, m.CPU)
	}
	if len(r.Results) == 2 {
		f, p := r.Results[0], r.Results[1]
		fmt.Fprintf(t, "ratio\t%.2f\t%.2f\t%.2f\t\n", ratio(f.Seconds, p.Seconds), ratio(f.Rate, p.Rate), ratio(f.CPU, p.CPU))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintln(w, "Every client was recovered, and has every message, once and in order.")
	return nil
}
