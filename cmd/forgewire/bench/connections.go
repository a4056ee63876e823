package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ConnectionsConfig says what Connections measures.
type ConnectionsConfig struct {
	CrowdConfig

	Connections []int         // numbers of connections to one process; each is measured
	Replicas    int           // of Forgewire; the peer is one process
	Rounds      int           // of connecting all; the contenders take turns. The first, in new processes, is reported apart
	Rate        int           // of connections that come in a second, open loop; 0: not measured
	Idle        time.Duration // how long to watch connections that do nothing
	Settle      time.Duration // before: what connecting has set going comes to rest
}

// Names of what Connections reports.
const (
	connectionsHeld = "connections"
	connectionsOpen = "open loop"
	memoryEach      = "memory each"
	handshakes      = "handshakes"
	firstHandshakes = "handshakes, new process"
	idleCPU         = "idle CPU"
)

// Connections measures what connections that are subscribed to a channel cost.
func Connections(ctx context.Context, cfg ConnectionsConfig) (*Result, error) {
	if cfg.Replicas < 1 || cfg.Rounds < 1 || cfg.Idle < 0 || cfg.Rate < 0 {
		return nil, errors.New("replicas and rounds must be positive")
	}
	out := &Result{Bench: "connections", What: fmt.Sprintf("each subscribed to one channel; handshakes until subscribed, at first and when as many had come and gone; idle over %.3g s", cfg.Idle.Seconds())}
	held := &Table{Name: connectionsHeld, Charts: []Chart{{Title: "memory of a connection", Kind: bars, Y: memoryEach}, {Title: "handshakes", Kind: bars, Y: handshakes}}}
	open := &Table{Name: connectionsOpen, What: fmt.Sprintf("clients come at %d/s, whatever the server does; from when each was due until it was subscribed", cfg.Rate),
		Charts: []Chart{{Title: "until subscribed", Kind: percentiles, Y: handshake, Log: true}}}
	for _, n := range cfg.Connections {
		if n < 1 {
			return nil, errors.New("there must be at least one connection")
		}
		if err := cfg.run(ctx, n, held, open); err != nil {
			return nil, fmt.Errorf("%d connections: %w", n, err)
		}
	}
	out.Tables = withRatios(held)
	if len(open.Rows) > 0 {
		out.Tables = append(out.Tables, open)
	}
	return out, nil
}

// run measures in processes of its own: one that had more connections before keeps some of their memory.
func (cfg *ConnectionsConfig) run(ctx context.Context, n int, held, open *Table) (err error) {
	all, err := cfg.contenders(ctx, cfg.Replicas, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	name := func(c *contender) string {
		if len(c.urls) > 1 {
			return fmt.Sprintf("%s, %d × %s", c.name, len(c.urls), thousands(int64(n)))
		}
		return c.name + ", " + thousands(int64(n))
	}
	holds := make([]connectionsHold, len(all))
	for round := range cfg.Rounds {
		for i, c := range all {
			fmt.Fprintf(cfg.Progress, "%s: %d connections to each of %d processes, round %d of %d\n", c.name, n, len(c.urls), round+1, cfg.Rounds)
			var meanwhile func() error
			if round == 0 {
				if holds[i].base, err = residents(c.pids); err != nil {
					return err
				}
				meanwhile = func() error { return cfg.watch(ctx, c, &holds[i]) }
			}
			if err := cfg.connect(ctx, c, n, &holds[i], meanwhile); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	for i, c := range all {
		held.Rows = append(held.Rows, holds[i].row(name(c), n*len(c.urls), len(c.pids)))
	}
	if cfg.Rate == 0 {
		return nil
	}
	for _, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: %d connections, %d a second\n", c.name, n, cfg.Rate)
		row, err := cfg.arrive(ctx, c, n, name(c))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		open.Rows = append(open.Rows, row)
	}
	return nil
}

// connectionsHold is what the connections to one contender take.
type connectionsHold struct {
	base, full int64     // of memory
	idle       []float64 // seconds of CPU time a second, with all connections
	rates      []float64
	cpu        []float64 // of the server, for a handshake
}

func (h *connectionsHold) row(name string, connections, processes int) *Row {
	r := &Row{Name: name}
	if processes > 0 {
		r.Figures = append(r.Figures, plain("memory without", "MB", float64(h.base)/float64(processes)/1e6),
			less(memoryEach, "KB", float64(h.full-h.base)/float64(connections)/1e3))
	}
	again := h.rates[min(1, len(h.rates)-1):] // in memory that the process has by then
	r.Figures = append(r.Figures, more(firstHandshakes, "/s", h.rates[0]), more(handshakes, "/s", median(again)))
	if processes > 0 {
		r.Figures = append(r.Figures, less("CPU of one", "µs", median(h.cpu)), less(idleCPU, "% of a core", 100*median(h.idle)))
	}
	return r
}

// watch looks at what the connections take while nothing happens.
func (cfg *ConnectionsConfig) watch(ctx context.Context, c *contender, h *connectionsHold) (err error) {
	w := load{warmup: cfg.Settle, duration: cfg.Idle}.window()
	waitUntil(ctx, w.from)
	if h.full, err = residents(c.pids); err != nil {
		return err
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	if !waitUntil(ctx, w.to) {
		return ctx.Err()
	}
	after, err := c.cpu()
	if err == nil && cfg.Idle > 0 {
		h.idle = append(h.idle, (after[0]-before[0]).Seconds()/cfg.Idle.Seconds())
	}
	return err
}

// connect connects all clients, does what is to be done meanwhile, and lets them go.
func (cfg *ConnectionsConfig) connect(ctx context.Context, c *contender, n int, h *connectionsHold, meanwhile func() error) (err error) {
	crowd, err := startCrowd(ctx, cfg.Binary, cfg.channel(""), c, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := c.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	opened, err := crowd.open(ctx, 0, nil, 0)
	if err != nil {
		return err
	}
	used, err := c.cpuSince(before, "", float64(crowd.clients))
	if err != nil {
		return err
	}
	for _, f := range used {
		h.cpu = append(h.cpu, f.Value)
	}
	h.rates = append(h.rates, ratio(float64(crowd.clients), opened.end.Sub(start).Seconds()))
	if meanwhile != nil {
		if err = meanwhile(); err != nil {
			return err
		}
	}
	return cfg.leave(ctx, crowd)
}

// handshake is from when a client is due until it is subscribed.
const handshake = "handshake"

// arrive lets clients come at a rate.
func (cfg *ConnectionsConfig) arrive(ctx context.Context, c *contender, n int, name string) (r *Row, err error) {
	crowd, err := startCrowd(ctx, cfg.Binary, cfg.channel(""), c, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	opened, err := crowd.open(ctx, float64(cfg.Rate), nil, 0)
	if err != nil {
		return nil, err
	}
	return &Row{Name: name, Times: []Times{opened.times.times(handshake)}, Tally: &opened.tally}, cfg.leave(ctx, crowd)
}

// leave closes all connections, and waits until the server has let go of them.
func (cfg *ConnectionsConfig) leave(ctx context.Context, crowd *crowd) error {
	if err := crowd.close(ctx); err != nil {
		return err
	}
	if !waitUntil(ctx, time.Now().Add(time.Second).UnixNano()) {
		return ctx.Err()
	}
	return nil
}

// residents is the memory that processes have in RAM, in bytes.
func residents(pids []int) (total int64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("read a process's memory: %w", err)
		}
		var size, pages int64
		if _, err = fmt.Sscan(string(b), &size, &pages); err != nil {
			return 0, fmt.Errorf("read a process's memory: %w", err)
		}
		total += pages * int64(os.Getpagesize())
	}
	return total, nil
}
