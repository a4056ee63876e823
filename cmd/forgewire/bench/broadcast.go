package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// BroadcastConfig says what Broadcast measures.
type BroadcastConfig struct {
	CrowdConfig

	Clients  int           // subscribers of one channel, on one process
	Size     int           // of a message's data, in bytes
	Messages int           // one after the other: the next when everybody has the last
	Backlog  int           // at once
	Rounds   int           // in which the contenders take turns; medians are reported
	Rate     int           // of messages a second, open loop; 0: not measured
	Duration time.Duration // of that
}

// Names of what Broadcast reports.
const (
	broadcastTable = "deliveries"
	broadcastOpen  = "open loop"
	singly         = "one at a time"
	backlogged     = "backlogged"
	delivery       = "delivery"
)

// Broadcast measures how fast one message, and many at once, reach all subscribers of a channel.
func Broadcast(ctx context.Context, cfg BroadcastConfig) (out *Result, err error) {
	if cfg.Clients < 1 || cfg.Messages < 1 || cfg.Backlog < 1 || cfg.Rounds < 1 || cfg.Size < minCrowdData || cfg.Rate < 0 {
		return nil, fmt.Errorf("clients, messages, backlog and rounds must be positive, and the size at least %d", minCrowdData)
	}
	all, err := cfg.contenders(ctx, 1, cfg.Clients)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	audiences := make([]*audience, len(all))
	for i, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: connecting %d clients\n", c.name, cfg.Clients)
		crowd, err := startCrowd(ctx, cfg.Binary, cfg.channel(""), c, cfg.Clients)
		if err != nil {
			return nil, err
		}
		defer crowd.stop() //nolint:errcheck // it returns none
		if _, err = crowd.open(ctx, 0, nil, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		audiences[i] = &audience{contender: c, crowd: crowd, size: cfg.Size}
	}
	out = &Result{Bench: "broadcast", What: fmt.Sprintf("%d bytes to %d clients of one channel; one at a time: %d messages, each when all have the last; backlogged: %d at once; medians of %d rounds",
		cfg.Size, cfg.Clients, cfg.Messages, cfg.Backlog, cfg.Rounds), Notes: []string{"Every message came to every client, once and in order."}}
	if err = cfg.rounds(ctx, audiences, out); err != nil || cfg.Rate == 0 {
		return out, err
	}
	t := &Table{Name: broadcastOpen, What: fmt.Sprintf("%d messages a second for %.3g s, from when a message was due until a client had it", cfg.Rate, cfg.Duration.Seconds()),
		Charts: []Chart{{Title: "until a client has it", Kind: percentiles, Y: delivery, Log: true}}}
	for _, a := range audiences {
		fmt.Fprintf(cfg.Progress, "%s: %d messages a second\n", a.name, cfg.Rate)
		row, err := a.open(ctx, float64(cfg.Rate), cfg.Duration)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		t.Rows = append(t.Rows, row)
	}
	out.Tables = append(out.Tables, t)
	return out, nil
}

func (cfg *BroadcastConfig) rounds(ctx context.Context, audiences []*audience, out *Result) error {
	for round := range cfg.Rounds + 1 {
		fmt.Fprintf(cfg.Progress, "round %d of %d\n", round, cfg.Rounds)
		for _, a := range audiences {
			err := a.broadcast(ctx, cfg.Messages, 1, &a.single)
			if err == nil {
				err = a.broadcast(ctx, 1, cfg.Backlog, &a.burst)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			if round == 0 { // it warms up
				a.single, a.burst = deliveries{}, deliveries{}
			}
		}
	}
	t := &Table{Name: broadcastTable, Charts: []Chart{{Title: "deliveries, one message at a time", Kind: bars, Y: singly}, {Title: "deliveries, backlogged", Kind: bars, Y: backlogged}}}
	for _, a := range audiences {
		row := &Row{Name: a.name, Figures: []Figure{more(singly, "/s", median(a.single.rates)), more(backlogged, "/s", median(a.burst.rates))}}
		if len(a.pids) > 0 {
			row.Figures = append(row.Figures, less("CPU of one", "µs", median(a.single.cpu)), less("CPU backlogged", "µs", median(a.burst.cpu)))
		}
		t.Rows = append(t.Rows, row)
	}
	out.Tables = withRatios(t)
	return nil
}

// audience is a crowd that listens to a contender.
type audience struct {
	*contender
	crowd         *crowd
	size          int
	sent          int // messages
	single, burst deliveries
}

// deliveries are rates and the server's CPU time for one, by round.
type deliveries struct{ rates, cpu []float64 }

// broadcast publishes so many messages at once, and when all have them the next ones.
func (a *audience) broadcast(ctx context.Context, times, atOnce int, d *deliveries) error {
	var took time.Duration
	before, err := a.cpu()
	if err != nil {
		return err
	}
	for range times {
		var all fulfilled
		g, ctx := errgroup.WithContext(ctx)
		start := time.Now()
		g.Go(func() (err error) {
			all, err = a.crowd.await(ctx, a.sent+atOnce, false)
			return err
		})
		g.Go(func() error { return a.publish(ctx, a.crowd.channel, a.sent, atOnce, a.size, start.UnixNano()) })
		if err = g.Wait(); err != nil {
			return err //nolint:wrapcheck // they say what was attempted
		}
		took += all.end.Sub(start)
		a.sent += atOnce
	}
	n := float64(a.crowd.clients * times * atOnce)
	used, err := a.cpuSince(before, "", n)
	if err != nil {
		return err
	}
	for _, f := range used {
		d.cpu = append(d.cpu, f.Value)
	}
	d.rates = append(d.rates, ratio(n, took.Seconds()))
	return nil
}

// open publishes at a rate.
func (a *audience) open(ctx context.Context, rate float64, duration time.Duration) (*Row, error) {
	n := max(int(rate*duration.Seconds()), 1)
	var all fulfilled
	var sent *outcome
	first := a.sent
	a.sent += n
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		all, err = a.crowd.await(ctx, first+n, true)
		return err
	})
	g.Go(func() (err error) {
		// One publisher: the messages are numbered, and a client that gets them out of order tells.
		sent, err = openLoop{total: n, at: evenly(rate), workers: 1, connect: func(ctx context.Context, _ int) (client, error) {
			return announcer{a, ctx, first}, nil
		}}.run(ctx)
		if err == nil && sent.last != nil {
			err = sent.last // the numbers have a gap now
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // they say what was attempted
	}
	took := all.end.Sub(sent.begin).Seconds()
	reached := n * a.crowd.clients // await saw all of them
	return &Row{Name: a.name, Figures: []Figure{more(delivered, "/s", ratio(float64(reached), took))},
		Times: []Times{sent.times.times(publish), all.times.times(delivery)}, Tally: &Tally{Asked: reached, Succeeded: reached}}, nil
}

// announcer publishes what an audience waits for.
type announcer struct {
	*audience
	ctx   context.Context // of the measurement, which is as long as it lives
	first int
}

func (p announcer) do(i int, due time.Time) error {
	return p.publish(p.ctx, p.crowd.channel, p.first+i, 1, p.size, due.UnixNano())
}

func (announcer) close() {}
