package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"strings"
	"time"
)

// FanoutConfig says what Fanout measures.
type FanoutConfig struct {
	Publishers  int
	Subscribers int           // 0: one a replica
	Replicas    int           // to start, without URLs
	Channels    int           // publishers are spread over them; each subscriber follows all
	Size        int           // of a message's data, in bytes
	Duration    time.Duration // of each measurement, in all its rounds
	Warmup      time.Duration // before each measurement
	Rounds      int           // the floor and the whole take turns, so that both meet the machine's moods
	Idle        time.Duration // how long to watch an idle replica; 0: not at all

	Binary   string    // forgewire, for the replicas
	Environ  []string  // of which the replicas get the variables of the Go runtime
	Progress io.Writer // gets a line for each step

	// A running deployment, to be measured in place of one of our own.
	URLs   []string // of its replicas, or of a load balancer
	APIKey string
	Token  string // of the subscribers; "" for anonymous ones
}

// Bounds of a message's size: the stamps have to fit in, and the message in a notification.
const maxSize = 7500

func (c *FanoutConfig) check() error {
	switch {
	case c.Size < minSize || c.Size > maxSize:
		return fmt.Errorf("the size must be between %d and %d bytes", minSize, maxSize)
	case c.Publishers < 1 || c.Publishers >= maxPeople:
		return errors.New("there must be at least one publisher")
	case c.Channels < 1 || c.Replicas < 1 || c.Rounds < 1 || c.Subscribers < 0 || c.Duration <= 0 || c.Warmup < 0:
		return errors.New("channels, replicas, rounds and the duration must be positive")
	}
	return nil
}

// FanoutReport is what Fanout found.
type FanoutReport struct {
	CPUs        int          `json:"cpus"`
	Replicas    int          `json:"replicas"`
	Subscribers int          `json:"subscribers"`
	Channels    int          `json:"channels"`
	Size        int          `json:"size"`
	Seconds     float64      `json:"seconds"`
	Runs        []FanoutRun  `json:"runs"`
	Idle        *IdleReport  `json:"idle,omitempty"`
	config      FanoutConfig // for Print
}

// FanoutRun is the measurement with one number of publishers.
type FanoutRun struct {
	Publishers int     `json:"publishers"`
	Whole      Result  `json:"whole"`
	Floor      *Result `json:"floor,omitempty"` // not measured on a deployment that runs elsewhere
	RateRatio  float64 `json:"rate_whole_to_floor,omitempty"`
	P50Ratio   float64 `json:"p50_whole_to_floor,omitempty"`
}

// IdleReport is what a replica with subscribers and no messages takes.
type IdleReport struct {
	Seconds  float64   `json:"seconds"`
	Cores    []float64 `json:"cpu_cores"` // by replica
	Postgres float64   `json:"postgres_cpu_cores"`
}

// Fanout measures publishing over HTTP and receiving over WebSocket.
func Fanout(ctx context.Context, cfg FanoutConfig) (report *FanoutReport, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	var sys *system
	var floor string
	var st *stack
	if len(cfg.URLs) > 0 {
		if sys, err = deployment(cfg); err != nil {
			return nil, err
		}
	} else {
		fmt.Fprintf(cfg.Progress, "starting a private PostgreSQL and %d replicas\n", cfg.Replicas)
		st, err = startStack(ctx, stackConfig{Binary: cfg.Binary, Environ: cfg.Environ, Replicas: cfg.Replicas, Progress: cfg.Progress})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, st.stop(ctx)) }()
		sys = st.system()
		if floor, err = prepareFloor(ctx, st.database); err != nil {
			return nil, err
		}
	}
	if cfg.Subscribers == 0 {
		cfg.Subscribers = len(sys.replicas)
	}
	report = &FanoutReport{CPUs: runtime.NumCPU(), Replicas: len(sys.replicas), Subscribers: cfg.Subscribers, Channels: cfg.Channels,
		Size: cfg.Size, Seconds: cfg.Duration.Seconds(), config: cfg}
	if cfg.Idle > 0 && st != nil {
		if report.Idle, err = measureIdle(ctx, cfg, st); err != nil {
			return nil, err
		}
	}
	counts := []int{1, cfg.Publishers}
	if cfg.Publishers == 1 {
		counts = counts[:1]
	}
	for _, n := range counts {
		run, err := fanoutRun(ctx, cfg, sys, floor, n)
		if err != nil {
			return nil, err
		}
		report.Runs = append(report.Runs, run)
	}
	return report, nil
}

// deployment describes one that runs already.
func deployment(cfg FanoutConfig) (*system, error) {
	sys := &system{apiKey: cfg.APIKey, token: cfg.Token, watched: watched{"generator": self}}
	for _, text := range cfg.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not the URL of a deployment, such as http://localhost:8080", text)
		}
		u.Path = strings.TrimSuffix(u.Path, "/")
		sys.replicas = append(sys.replicas, u)
	}
	return sys, nil
}

func fanoutRun(ctx context.Context, cfg FanoutConfig, sys *system, floorDatabase string, publishers int) (FanoutRun, error) {
	run := FanoutRun{Publishers: publishers}
	l := load{publishers: publishers, size: cfg.Size, warmup: cfg.Warmup, duration: cfg.Duration / time.Duration(cfg.Rounds)}
	whole, floor := newSample(), newSample()
	onFloor := watched{"generator": self}
	if p := sys.watched["postgres"]; p != nil {
		onFloor["postgres"] = p
	}
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "%d publishers, round %d of %d\n", publishers, round+1, cfg.Rounds)
		if floorDatabase != "" {
			s, err := measureFloor(ctx, floorDatabase, l, cfg.Replicas, onFloor)
			if err != nil {
				return run, err
			}
			floor.add(s)
		}
		s, err := sys.measure(ctx, l, cfg.Subscribers, cfg.Channels)
		if err != nil {
			return run, err
		}
		whole.add(s)
	}
	run.Whole = whole.result()
	if whole.acked == 0 {
		return run, fmt.Errorf("nothing was acknowledged: %s", whole.refusal)
	}
	if floorDatabase != "" {
		f := floor.result()
		run.Floor = &f
		run.RateRatio = ratio(run.Whole.PublishRate, f.PublishRate)
		run.P50Ratio = ratio(run.Whole.Receive.P50, f.Receive.P50)
	}
	return run, nil
}

// idleSettle lets what the start has set going come to rest.
const idleSettle = 2 * time.Second

// measureIdle watches replicas that have subscribers and nothing to do.
func measureIdle(ctx context.Context, cfg FanoutConfig, st *stack) (*IdleReport, error) {
	fmt.Fprintf(cfg.Progress, "watching idle replicas for %v\n", cfg.Idle)
	sys := st.system()
	receivers, err := sys.receivers(ctx, cfg.Subscribers, []string{"idle"})
	defer func() {
		for _, r := range receivers {
			r.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	w := load{warmup: idleSettle, duration: cfg.Idle}.window()
	waitUntil(ctx, w.from)
	groups := [][]int{sys.watched["postgres"]()} // nothing starts another one while all are idle
	for _, r := range st.replicas {
		groups = append(groups, []int{r.pid})
	}
	before, err1 := exactCPUTimes(groups)
	waitUntil(ctx, w.to)
	after, err2 := exactCPUTimes(groups)
	if err = errors.Join(ctx.Err(), err1, err2); err != nil {
		return nil, err
	}
	report := &IdleReport{Seconds: cfg.Idle.Seconds(), Postgres: (after[0] - before[0]).Seconds() / cfg.Idle.Seconds()}
	for i := 1; i < len(groups); i++ {
		report.Cores = append(report.Cores, (after[i]-before[i]).Seconds()/cfg.Idle.Seconds())
	}
	return report, nil
}
