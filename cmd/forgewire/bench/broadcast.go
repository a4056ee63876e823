package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// BroadcastConfig says what Broadcast measures.
type BroadcastConfig struct {
	CrowdConfig

	Clients  int // subscribers of one channel, on one process
	Size     int // of a message's data, in bytes
	Messages int // one after the other: the next when everybody has the last
	Backlog  int // at once
	Rounds   int // in which the contenders take turns; medians are reported
}

// BroadcastReport is what Broadcast found.
type BroadcastReport struct {
	Clients  int               `json:"clients"`
	Size     int               `json:"size"`
	Messages int               `json:"messages"`
	Backlog  int               `json:"backlog"`
	Rounds   int               `json:"rounds"`
	Results  []BroadcastResult `json:"results"` // Forgewire, and the peer if there is one
}

// BroadcastResult is what one contender does.
type BroadcastResult struct {
	Name   string     `json:"name"`
	Single Deliveries `json:"single"`
	Burst  Deliveries `json:"backlogged"`
}

// Deliveries is how fast messages reach subscribers.
type Deliveries struct {
	Rate float64 `json:"deliveries_per_second"`
	CPU  float64 `json:"cpu_us_per_delivery"` // of the server
}

// Broadcast measures how fast one message, and many at once, reach all subscribers of a channel.
func Broadcast(ctx context.Context, cfg BroadcastConfig) (report *BroadcastReport, err error) {
	if cfg.Clients < 1 || cfg.Messages < 1 || cfg.Backlog < 1 || cfg.Rounds < 1 || cfg.Size < minCrowdData {
		return nil, fmt.Errorf("clients, messages, backlog and rounds must be positive, and the size at least %d", minCrowdData)
	}
	all, err := cfg.contenders(ctx, 1, cfg.Clients)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	report = &BroadcastReport{Clients: cfg.Clients, Size: cfg.Size, Messages: cfg.Messages, Backlog: cfg.Backlog, Rounds: cfg.Rounds}
	audiences := make([]*audience, len(all))
	for i, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: connecting %d clients\n", c.name, cfg.Clients)
		crowd, err := startCrowd(ctx, cfg.Binary, "bench-"+rand.Text()[:8], c.servers(), cfg.Clients)
		if err != nil {
			return nil, err
		}
		defer crowd.stop() //nolint:errcheck // it returns none
		if _, err = crowd.open(ctx, nil); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		audiences[i] = &audience{contender: c, crowd: crowd, size: cfg.Size}
	}
	single, burst := make([][]Deliveries, len(all)), make([][]Deliveries, len(all))
	for round := range cfg.Rounds + 1 {
		fmt.Fprintf(cfg.Progress, "round %d of %d\n", round, cfg.Rounds)
		for i, a := range audiences {
			one, err := a.broadcast(ctx, cfg.Messages, 1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.name, err)
			}
			many, err := a.broadcast(ctx, 1, cfg.Backlog)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.name, err)
			}
			if round > 0 { // the first warms up
				single[i], burst[i] = append(single[i], one), append(burst[i], many)
			}
		}
	}
	for i, c := range all {
		report.Results = append(report.Results, BroadcastResult{Name: c.name, Single: medianOf(single[i]), Burst: medianOf(burst[i])})
	}
	return report, nil
}

// audience is a crowd that listens to a contender.
type audience struct {
	*contender
	crowd *crowd
	size  int
	sent  int // messages
}

// broadcast publishes so many messages at once, and when all have them the next ones.
func (a *audience) broadcast(ctx context.Context, times, atOnce int) (d Deliveries, err error) {
	var took time.Duration
	before, err := exactCPUTimes([][]int{a.pids})
	if err != nil {
		return d, err
	}
	for range times {
		var end time.Time
		g, ctx := errgroup.WithContext(ctx)
		start := time.Now()
		g.Go(func() (err error) {
			end, err = a.crowd.await(ctx, a.sent+atOnce)
			return err
		})
		g.Go(func() error { return a.publish(ctx, a.crowd.channel, a.sent, atOnce, a.size) })
		if err = g.Wait(); err != nil {
			return d, err
		}
		took += end.Sub(start)
		a.sent += atOnce
	}
	after, err := exactCPUTimes([][]int{a.pids})
	if err != nil {
		return d, err
	}
	n := float64(a.crowd.clients * times * atOnce)
	return Deliveries{Rate: ratio(n, took.Seconds()), CPU: ratio(float64((after[0]-before[0]).Nanoseconds())/1e3, n)}, nil
}

func medianOf(all []Deliveries) Deliveries {
	var rates, cpu []float64
	for _, d := range all {
		rates, cpu = append(rates, d.Rate), append(cpu, d.CPU)
	}
	return Deliveries{Rate: median(rates), CPU: median(cpu)}
}

// Print writes the report for people.
func (r *BroadcastReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nbroadcast: %d bytes to %d clients of one channel; single: %d messages, each when all have the last; backlogged: %d at once; medians of %d rounds\n\n",
		r.Size, r.Clients, r.Messages, r.Backlog, r.Rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tsingle, deliveries/s\tCPU each\tbacklogged, deliveries/s\tCPU each\t")
	for _, m := range r.Results {
		fmt.Fprintf(t, "%s\t%.0f\t%.2f µs\t%.0f\t%.2f µs\t\n", m.Name, m.Single.Rate, m.Single.CPU, m.Burst.Rate, m.Burst.CPU)
	}
	if len(r.Results) == 2 {
		f, p := r.Results[0], r.Results[1]
		fmt.Fprintf(t, "ratio\t%.2f\t%.2f\t%.2f\t%.2f\t\n", ratio(f.Single.Rate, p.Single.Rate), ratio(f.Single.CPU, p.Single.CPU),
			ratio(f.Burst.Rate, p.Burst.Rate), ratio(f.Burst.CPU, p.Burst.CPU))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintln(w, "Every message came to every client, once and in order. aims: 1.2 and 5 times the peer's deliveries/s")
	return nil
}
