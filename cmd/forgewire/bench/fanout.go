package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// FanoutConfig says what Fanout measures.
type FanoutConfig struct {
	Publishers  int
	Subscribers int           // 0: one a replica
	Replicas    int           // to start, without a target
	Channels    int           // publishers are spread over them; each subscriber follows all
	Size        int           // of a message's data, in bytes
	Rates       []int         // of messages a second, open loop; each is measured
	Duration    time.Duration // of each measurement, in all its rounds
	Warmup      time.Duration // before each measurement
	Rounds      int           // the floor and the whole take turns, so that both meet the machine's moods
	Idle        time.Duration // how long to watch an idle replica; 0: not at all

	Setup
}

// Setup is what all benchmarks have in common.
type Setup struct {
	Target   Target    // given: measured in place of one of our own
	Binary   string    // forgewire, for the replicas
	Environ  []string  // of which the replicas get the variables of the Go runtime
	Progress io.Writer // gets a line for each step
	Machine  *Machine  // learns the servers' versions; nil: nobody wants to know
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
	for _, r := range c.Rates {
		if r < 1 {
			return errors.New("a rate must be positive")
		}
	}
	return nil
}

// fanoutRun is one run of Fanout.
type fanoutRun struct {
	cfg   FanoutConfig
	sys   *system
	floor string // the floor's database; "" where there is none
}

// Names of Fanout's tables and rows, which the README's table reads.
const (
	fanoutLoad   = "as fast as acknowledged"
	fanoutOpen   = "open loop"
	fanoutBeside = "beside the floor"
	fanoutCPU    = "CPU a message"
	fanoutIdle   = "an idle replica"
)

func publishersNamed(n int) string {
	if n == 1 {
		return "1 publisher"
	}
	return fmt.Sprintf("%d publishers", n)
}

// Fanout measures publishing over HTTP and receiving over WebSocket.
func Fanout(ctx context.Context, cfg FanoutConfig) (out *Result, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	b := &fanoutRun{cfg: cfg}
	var st *stack
	if cfg.Target.Given() {
		if b.sys, err = deployment(cfg.Target); err != nil {
			return nil, err
		}
	} else {
		fmt.Fprintf(cfg.Progress, "starting a private PostgreSQL and %d replicas\n", cfg.Replicas)
		if st, err = cfg.start(ctx, stackConfig{Replicas: cfg.Replicas}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, st.stop(ctx)) }()
		b.sys = st.system()
		if b.floor, err = prepareFloor(ctx, st.database); err != nil {
			return nil, err
		}
	}
	if b.cfg.Subscribers == 0 {
		b.cfg.Subscribers = len(b.sys.replicas)
	}
	out = &Result{Bench: "fanout", What: fmt.Sprintf("publish over HTTP, receive over WebSocket: %d replicas, %d subscribers, %d channels, %d bytes a message, %.3g s each",
		len(b.sys.replicas), b.cfg.Subscribers, cfg.Channels, cfg.Size, cfg.Duration.Seconds())}
	if err = b.measure(ctx, out); err != nil {
		return nil, err
	}
	if cfg.Idle > 0 && st != nil {
		idle, err := measureIdle(ctx, b.cfg, st)
		if err != nil {
			return nil, err
		}
		out.Tables = append(out.Tables, idle)
	}
	out.Notes = append(out.Notes, "Every acknowledged message came to every subscriber, once and in order.")
	return out, nil
}

// deployment describes one that runs already.
func deployment(t Target) (*system, error) {
	urls, err := t.parse()
	return &system{replicas: urls, apiKey: t.APIKey, token: t.Token, watched: watched{"generator": self}}, err
}

func (b *fanoutRun) measure(ctx context.Context, out *Result) error {
	load := &Table{Name: fanoutLoad, What: "publish: over HTTP until acknowledged; receive: from before the publish until a WebSocket has it",
		Charts: []Chart{{Title: "acknowledged messages", Kind: bars, Y: acked}, {Title: "from publish to receive", Kind: percentiles, Y: receive, Log: true}}}
	ratios := &Table{Name: fanoutBeside, What: "the same appends and NOTIFYs without HTTP and WebSocket"}
	cpu := &Table{Name: fanoutCPU}
	counts := []int{1, b.cfg.Publishers}
	if b.cfg.Publishers == 1 {
		counts = counts[:1]
	}
	for _, n := range counts {
		whole, floor, err := b.closed(ctx, n)
		if err != nil {
			return err
		}
		name := publishersNamed(n)
		ours := whole.row(name)
		load.Rows, cpu.Rows = append(load.Rows, ours), append(cpu.Rows, whole.cpuRow(name))
		if b.floor != "" {
			theirs := floor.row(name + ", floor")
			load.Rows, ratios.Rows = append(load.Rows, theirs), append(ratios.Rows, beside(name, ours, theirs))
		}
	}
	open := &Table{Name: fanoutOpen, What: "messages due at a rate, from when each was due",
		Charts: []Chart{{Title: "from when a message was due to receive", Kind: percentiles, Y: receive, Log: true}}}
	for _, rate := range b.cfg.Rates {
		fmt.Fprintf(b.cfg.Progress, "%d messages a second, open loop\n", rate)
		s, err := b.sys.measure(ctx, loadOf(b.cfg, b.cfg.Publishers, float64(rate), b.cfg.Duration), b.cfg.Subscribers, b.cfg.Channels)
		if err != nil {
			return err
		}
		name := thousands(int64(rate)) + "/s"
		open.Rows, cpu.Rows = append(open.Rows, s.row(name)), append(cpu.Rows, s.cpuRow(name))
	}
	out.Tables = append(out.Tables, load)
	for _, t := range []*Table{ratios, open, cpu} {
		if len(t.Rows) > 0 {
			out.Tables = append(out.Tables, t)
		}
	}
	return nil
}

func loadOf(cfg FanoutConfig, publishers int, rate float64, duration time.Duration) load {
	return load{publishers: publishers, rate: rate, size: cfg.Size, warmup: cfg.Warmup, duration: duration}
}

// closed measures with publishers that are as fast as they are answered.
func (b *fanoutRun) closed(ctx context.Context, publishers int) (whole, floor *sample, err error) {
	l := loadOf(b.cfg, publishers, 0, b.cfg.Duration/time.Duration(b.cfg.Rounds))
	whole, floor = newSample(), newSample()
	onFloor := watched{"generator": self}
	if p := b.sys.watched["postgres"]; p != nil {
		onFloor["postgres"] = p
	}
	for round := range b.cfg.Rounds {
		fmt.Fprintf(b.cfg.Progress, "%s, round %d of %d\n", publishersNamed(publishers), round+1, b.cfg.Rounds)
		if b.floor != "" {
			s, err := measureFloor(ctx, b.floor, l, b.cfg.Replicas, b.cfg.Replicas, onFloor)
			if err != nil {
				return nil, nil, err
			}
			floor.add(s)
		}
		s, err := b.sys.measure(ctx, l, b.cfg.Subscribers, b.cfg.Channels)
		if err != nil {
			return nil, nil, err
		}
		whole.add(s)
	}
	if whole.acked == 0 {
		return nil, nil, fmt.Errorf("nothing was acknowledged: %w", whole.refusal)
	}
	return whole, floor, nil
}

// idleSettle lets what the start has set going come to rest.
const idleSettle = 2 * time.Second

// measureIdle watches replicas that have subscribers and nothing to do.
func measureIdle(ctx context.Context, cfg FanoutConfig, st *stack) (*Table, error) {
	fmt.Fprintf(cfg.Progress, "watching idle replicas for %v\n", cfg.Idle)
	sys := st.system()
	receivers, err := sys.receivers(ctx, cfg.Subscribers, []string{"idle"})
	defer closeAll(receivers)
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
	share := func(i int) float64 { return 100 * (after[i] - before[i]).Seconds() / cfg.Idle.Seconds() }
	t := &Table{Name: fanoutIdle, What: fmt.Sprintf("with subscribers and no messages, over %.3g s", cfg.Idle.Seconds())}
	for i := 1; i < len(groups); i++ {
		t.Rows = append(t.Rows, &Row{Name: fmt.Sprintf("replica %d", i), Figures: []Figure{less("CPU", "% of a core", share(i))}})
	}
	t.Rows = append(t.Rows, &Row{Name: "PostgreSQL", Figures: []Figure{plain("CPU", "% of a core", share(0))}})
	return t, nil
}
