package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// PresenceConfig says what Presence measures.
type PresenceConfig struct {
	CrowdConfig

	Clients  int           // members of one channel, over all replicas
	Listed   int           // members of the channel whose list is asked for; Forgewire lists at most a thousand
	Replicas int           // of Forgewire; the peer is one process
	Callers  int           // that ask for the stats at once; one asks for the list
	Duration time.Duration // of each measurement
}

// PresenceReport is what Presence found.
type PresenceReport struct {
	Clients  int              `json:"clients"`
	Listed   int              `json:"listed"`
	Replicas int              `json:"replicas"`
	Callers  int              `json:"callers"`
	Seconds  float64          `json:"seconds"`
	Results  []PresenceResult `json:"results"` // Forgewire, and the peer if there is one
}

// PresenceResult is how one contender knows who is there.
type PresenceResult struct {
	Name  string  `json:"name"`
	Join  float64 `json:"join_seconds"`       // from the first handshake until all are counted
	Stats float64 `json:"stats_per_second"`   // calls of presence_stats
	Lists float64 `json:"lists_per_second"`   // calls of presence
	Leave float64 `json:"leave_seconds"`      // from the end of all connections until nobody is counted
	CPU   float64 `json:"cpu_us_to_join_one"` // of the server
}

// Presence measures joining and leaving a channel whose members are known, and asking who they are.
func Presence(ctx context.Context, cfg PresenceConfig) (report *PresenceReport, err error) {
	if cfg.Replicas < 1 || cfg.Clients < cfg.Replicas || cfg.Listed < cfg.Replicas || cfg.Callers < 1 || cfg.Duration <= 0 {
		return nil, errors.New("clients, listed ones, replicas, callers and the duration must be positive")
	}
	cfg.Clients -= cfg.Clients % cfg.Replicas
	cfg.Listed -= cfg.Listed % cfg.Replicas
	all, err := cfg.contenders(ctx, cfg.Replicas, cfg.Clients+cfg.Listed)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	report = &PresenceReport{Clients: cfg.Clients, Listed: cfg.Listed, Replicas: cfg.Replicas, Callers: cfg.Callers, Seconds: cfg.Duration.Seconds()}
	for _, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: %d members\n", c.name, cfg.Clients)
		m, err := cfg.measure(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		report.Results = append(report.Results, m)
	}
	return report, nil
}

func (cfg *PresenceConfig) measure(ctx context.Context, c *contender) (m PresenceResult, err error) {
	m.Name = c.name
	name := "crowd:" + rand.Text()[:8]
	channel := map[string]any{"channel": name}
	crowd, err := startCrowd(ctx, cfg.Binary, name, c.servers(), cfg.Clients/len(c.urls))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return m, err
	}
	start := time.Now()
	if _, err = crowd.open(ctx, nil); err != nil {
		return m, err
	}
	if m.Join, err = c.until(ctx, start, channel, cfg.Clients); err != nil {
		return m, err
	}
	after, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return m, err
	}
	m.CPU = ratio(float64((after[0] - before[0]).Microseconds()), float64(cfg.Clients))
	if m.Stats, err = c.callRate(ctx, cfg.Callers, cfg.Duration, "presence_stats", channel); err != nil {
		return m, err
	}
	if m.Lists, err = cfg.lists(ctx, c); err != nil {
		return m, err
	}
	start = time.Now()
	if err = crowd.close(ctx); err != nil {
		return m, err
	}
	m.Leave, err = c.until(ctx, start, channel, 0)
	return m, err
}

// lists is how many complete lists of a channel's members one caller gets a second.
func (cfg *PresenceConfig) lists(ctx context.Context, c *contender) (rate float64, err error) {
	name := "crowd:" + rand.Text()[:8]
	channel := map[string]any{"channel": name}
	crowd, err := startCrowd(ctx, cfg.Binary, name, c.servers(), cfg.Listed/len(c.urls))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	if _, err = crowd.open(ctx, nil); err != nil {
		return 0, err
	}
	if _, err = c.until(ctx, time.Now(), channel, cfg.Listed); err != nil {
		return 0, err
	}
	var list struct {
		Presence map[string]json.RawMessage `json:"presence"`
	}
	if err = c.call(ctx, 0, "presence", channel, &list); err != nil {
		return 0, err
	}
	if len(list.Presence) != cfg.Listed {
		return 0, fmt.Errorf("%w: the list has %d of %d members", ErrBroken, len(list.Presence), cfg.Listed)
	}
	return c.callRate(ctx, 1, cfg.Duration, "presence", channel)
}

const (
	presencePatience = time.Minute
	presencePoll     = 20 * time.Millisecond
)

// until waits until every process counts so many members, and returns how many seconds after start that was.
func (c *contender) until(ctx context.Context, start time.Time, channel map[string]any, members int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, presencePatience)
	defer cancel()
	var stats struct {
		Clients int `json:"num_clients"`
	}
	for i := 0; i < len(c.urls); {
		if err := c.call(ctx, i, "presence_stats", channel, &stats); err != nil {
			return 0, fmt.Errorf("%d of %d members are counted: %w", stats.Clients, members, err)
		}
		if stats.Clients == members {
			i++
			continue
		}
		waitUntil(ctx, time.Now().Add(presencePoll).UnixNano())
	}
	return time.Since(start).Seconds(), nil
}

// callRate is how many calls a second callers make, one after the other each.
func (c *contender) callRate(ctx context.Context, callers int, duration time.Duration, method string, in any) (float64, error) {
	var calls atomic.Int64
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range callers {
		g.Go(func() error {
			for time.Since(start) < duration {
				if err := c.call(ctx, i, method, in, nil); err != nil {
					return err
				}
				calls.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return ratio(float64(calls.Load()), time.Since(start).Seconds()), err
}

// Print writes the report for people.
func (r *PresenceReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\npresence: %d members of one channel on %d replicas; %d ask for its stats, one for the list of a channel of %d; %.3g s each\n\n",
		r.Clients, r.Replicas, r.Callers, r.Listed, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tjoined\tCPU each\tstats/s\tlists/s\tleft\t")
	for _, m := range r.Results {
		fmt.Fprintf(t, "%s\t%.2f s\t%.0f µs\t%.0f\t%.1f\t%.2f s\t\n", m.Name, m.Join, m.CPU, m.Stats, m.Lists, m.Leave)
	}
	if len(r.Results) == 2 {
		f, p := r.Results[0], r.Results[1]
		fmt.Fprintf(t, "ratio\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", ratio(f.Join, p.Join), ratio(f.CPU, p.CPU), ratio(f.Stats, p.Stats), ratio(f.Lists, p.Lists), ratio(f.Leave, p.Leave))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
