package bench

import (
	"context"
	"errors"
	"fmt"
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

// Names of what Resume reports.
const (
	resumeTable = "all at once"
	messages    = "messages"
	comeBack    = "until whole"
)

// resumption is one contender's rounds.
type resumption struct {
	seconds, cpu []float64
	times        *histogram
	tally        Tally
}

// Resume measures how long it takes until clients that come back all at once have what they missed. They are all due at
// the beginning, whoever waits for whom.
func Resume(ctx context.Context, cfg ResumeConfig) (out *Result, err error) {
	if cfg.Clients < 1 || cfg.Missed < 1 || cfg.Rounds < 1 || cfg.Size < minCrowdData {
		return nil, fmt.Errorf("clients, missed messages and rounds must be positive, and the size at least %d", minCrowdData)
	}
	all, err := cfg.contenders(ctx, 1, cfg.Clients)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	parts := make([]resumption, len(all))
	for round := range cfg.Rounds {
		for i, c := range all {
			fmt.Fprintf(cfg.Progress, "%s: round %d of %d\n", c.name, round+1, cfg.Rounds)
			if parts[i].times == nil {
				parts[i].times = newHistogram()
			}
			if err := cfg.round(ctx, c, &parts[i]); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	t := &Table{Name: resumeTable, What: "until whole: from when all come until one has everything",
		Charts: []Chart{{Title: "messages brought back", Kind: bars, Y: messages}, {Title: "until a client has everything", Kind: percentiles, Y: comeBack}}}
	for i, c := range all {
		p := &parts[i]
		row := &Row{Name: c.name, Figures: []Figure{less("until all have all", "s", median(p.seconds)), more(messages, "/s", ratio(float64(cfg.Clients*cfg.Missed), median(p.seconds)))},
			Times: []Times{p.times.times(comeBack)}, Tally: &p.tally}
		if len(p.cpu) > 0 {
			row.Figures = append(row.Figures, less("CPU of one", "µs", median(p.cpu)))
		}
		t.Rows = append(t.Rows, row)
	}
	return &Result{Bench: "resume", What: fmt.Sprintf("%d clients come back at once, each of which missed %d messages of %d bytes; medians of %d rounds", cfg.Clients, cfg.Missed, cfg.Size, cfg.Rounds),
		Tables: withRatios(t), Notes: []string{"Every client was recovered, and has every message, once and in order."}}, nil
}

// round lets clients come back to a channel of its own.
func (cfg *ResumeConfig) round(ctx context.Context, c *contender, p *resumption) (err error) {
	channel := cfg.channel("past")
	var from since
	if err = c.call(ctx, 0, "history", map[string]any{"channel": channel}, &from); err != nil {
		return err
	}
	if err = c.publish(ctx, channel, 0, cfg.Missed, cfg.Size, time.Now().UnixNano()); err != nil {
		return err
	}
	crowd, err := startCrowd(ctx, cfg.Binary, channel, c, cfg.Clients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := c.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	all, err := crowd.open(ctx, 0, &from, cfg.Missed)
	if err != nil {
		return err
	}
	used, err := c.cpuSince(before, "", float64(cfg.Clients*cfg.Missed))
	if err != nil {
		return err
	}
	for _, f := range used {
		p.cpu = append(p.cpu, f.Value)
	}
	p.seconds = append(p.seconds, all.end.Sub(start).Seconds())
	p.times.merge(all.times)
	p.tally.add(&all.tally)
	return crowd.close(ctx)
}
