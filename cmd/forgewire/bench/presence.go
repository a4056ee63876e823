package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
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
	Rate     int           // of asking for the stats, open loop; 0: not measured
	Duration time.Duration // of each measurement
}

// Names of what Presence reports.
const (
	presenceTable = "members"
	presenceOpen  = "open loop"
	statsAsked    = "stats"
)

// Presence measures joining and leaving a channel whose members are known, and asking who they are.
func Presence(ctx context.Context, cfg PresenceConfig) (out *Result, err error) {
	if cfg.Replicas < 1 || cfg.Clients < cfg.Replicas || cfg.Listed < cfg.Replicas || cfg.Callers < 1 || cfg.Duration <= 0 || cfg.Rate < 0 {
		return nil, errors.New("clients, listed ones, replicas, callers and the duration must be positive")
	}
	if cfg.Target.Given() && cfg.Target.Namespace == "" {
		return nil, errNeedsDevstack{"or name one of the deployment's namespaces that has presence: --namespace"}
	}
	cfg.Clients -= cfg.Clients % cfg.Replicas
	cfg.Listed -= cfg.Listed % cfg.Replicas
	all, err := cfg.contenders(ctx, cfg.Replicas, cfg.Clients+cfg.Listed)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	t := &Table{Name: presenceTable, Charts: []Chart{{Title: "calls of presence_stats", Kind: bars, Y: statsAsked}}}
	open := &Table{Name: presenceOpen, What: fmt.Sprintf("%d calls of presence_stats a second, from when each was due", cfg.Rate),
		Charts: []Chart{{Title: "presence_stats", Kind: percentiles, Y: statsAsked, Log: true}}}
	for _, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: %d members\n", c.name, cfg.Clients)
		row, timed, err := cfg.measure(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		t.Rows = append(t.Rows, row)
		if timed != nil {
			open.Rows = append(open.Rows, timed)
		}
	}
	out = &Result{Bench: "presence", What: fmt.Sprintf("%d members of one channel on %d replicas; %d ask for its stats, one for the list of a channel of %d; %.3g s each",
		cfg.Clients, len(all[0].urls), cfg.Callers, cfg.Listed, cfg.Duration.Seconds()), Tables: withRatios(t)}
	if len(open.Rows) > 0 {
		out.Tables = append(out.Tables, open)
	}
	return out, nil
}

func (cfg *PresenceConfig) measure(ctx context.Context, c *contender) (row, timed *Row, err error) {
	row = &Row{Name: c.name}
	name := cfg.channel("crowd")
	channel := map[string]any{"channel": name}
	crowd, err := startCrowd(ctx, cfg.Binary, name, c, cfg.Clients/len(c.urls))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := c.cpu()
	if err != nil {
		return nil, nil, err
	}
	start := time.Now()
	if _, err = crowd.open(ctx, 0, nil, 0); err != nil {
		return nil, nil, err
	}
	join, err := c.until(ctx, start, channel, crowd.clients)
	if err != nil {
		return nil, nil, err
	}
	used, err := c.cpuSince(before, "CPU of a join", float64(crowd.clients))
	if err != nil {
		return nil, nil, err
	}
	stats, err := c.callRate(ctx, cfg.Callers, cfg.Duration, "presence_stats", channel)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Rate > 0 {
		if timed, err = cfg.timed(ctx, c, channel); err != nil {
			return nil, nil, err
		}
	}
	lists, err := cfg.lists(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	start = time.Now()
	if err = crowd.close(ctx); err != nil {
		return nil, nil, err
	}
	leave, err := c.until(ctx, start, channel, 0)
	row.Figures = append([]Figure{less("joined", "s", join), less("left", "s", leave), more(statsAsked, "/s", stats), more("lists", "/s", lists)}, used...)
	return row, timed, err
}

// timed asks for the stats at a rate.
func (cfg *PresenceConfig) timed(ctx context.Context, c *contender, channel map[string]any) (*Row, error) {
	o, err := openLoop{total: max(int(float64(cfg.Rate)*cfg.Duration.Seconds()), 1), at: evenly(float64(cfg.Rate)), workers: histograms,
		connect: func(ctx context.Context, i int) (client, error) { return caller{c, ctx, i, channel}, nil }}.run(ctx)
	if err != nil {
		return nil, err
	}
	return &Row{Name: c.name, Times: []Times{o.times.times(statsAsked)}, Tally: &o.tally}, nil
}

// caller asks the server API for the stats of a channel.
type caller struct {
	*contender
	ctx     context.Context // of the measurement, which is as long as it lives
	process int
	channel map[string]any
}

func (c caller) do(int, time.Time) error {
	return c.call(c.ctx, c.process, "presence_stats", c.channel, nil)
}

func (caller) close() {}

// lists is how many complete lists of a channel's members one caller gets a second.
func (cfg *PresenceConfig) lists(ctx context.Context, c *contender) (rate float64, err error) {
	name := cfg.channel("crowd")
	channel := map[string]any{"channel": name}
	crowd, err := startCrowd(ctx, cfg.Binary, name, c, cfg.Listed/len(c.urls))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	if _, err = crowd.open(ctx, 0, nil, 0); err != nil {
		return 0, err
	}
	if _, err = c.until(ctx, time.Now(), channel, crowd.clients); err != nil {
		return 0, err
	}
	var list struct {
		Presence map[string]json.RawMessage `json:"presence"`
	}
	if err = c.call(ctx, 0, "presence", channel, &list); err != nil {
		return 0, err
	}
	if len(list.Presence) != crowd.clients {
		return 0, fmt.Errorf("%w: the list has %d of %d members", ErrBroken, len(list.Presence), crowd.clients)
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
