package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"
)

// ConnectionsConfig says what Connections measures.
type ConnectionsConfig struct {
	CrowdConfig

	Connections []int         // numbers of connections to one process; each is measured
	Replicas    int           // of Forgewire; the peer is one process
	Rounds      int           // of connecting all; the contenders take turns, and medians are reported
	Idle        time.Duration // how long to watch connections that do nothing
}

// ConnectionsReport is what Connections found.
type ConnectionsReport struct {
	Replicas int              `json:"replicas"`
	Idle     float64          `json:"idle_seconds"`
	Runs     []ConnectionsRun `json:"runs"`
}

// ConnectionsRun is the measurement of one number of connections.
type ConnectionsRun struct {
	Connections int                 `json:"connections"` // to each process
	Results     []ConnectionsResult `json:"results"`     // Forgewire, and the peer if there is one
}

// ConnectionsResult is what the connections to one contender take.
type ConnectionsResult struct {
	Name       string  `json:"name"`
	Base       int64   `json:"base_rss_bytes"`           // of a process without connections
	Bytes      float64 `json:"rss_bytes_per_connection"` // on top
	Handshakes float64 `json:"handshakes_per_second"`    // until subscribed
	CPU        float64 `json:"cpu_us_per_handshake"`     // of the server
	IdleCores  float64 `json:"idle_cpu_cores"`           // of all processes, with all connections
}

// crowdSettle lets what connecting has set going come to rest.
const crowdSettle = 15 * time.Second

// Connections measures what connections that are subscribed to a channel cost.
func Connections(ctx context.Context, cfg ConnectionsConfig) (*ConnectionsReport, error) {
	if cfg.Replicas < 1 || cfg.Rounds < 1 || cfg.Idle < 0 {
		return nil, errors.New("replicas and rounds must be positive")
	}
	r := &ConnectionsReport{Replicas: cfg.Replicas, Idle: cfg.Idle.Seconds()}
	for _, n := range cfg.Connections {
		if n < 1 {
			return nil, errors.New("there must be at least one connection")
		}
		run, err := cfg.run(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%d connections: %w", n, err)
		}
		r.Runs = append(r.Runs, run)
	}
	return r, nil
}

// run measures in processes of its own: one that had more connections before keeps some of their memory.
func (cfg *ConnectionsConfig) run(ctx context.Context, n int) (run ConnectionsRun, err error) {
	run.Connections = n
	all, err := cfg.contenders(ctx, cfg.Replicas, n)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, stopContenders(all)) }()
	rates, cpu := make([][]float64, len(all)), make([][]float64, len(all))
	for i, c := range all {
		fmt.Fprintf(cfg.Progress, "%s: %d connections to each of %d processes\n", c.name, n, len(c.urls))
		m, err := cfg.hold(ctx, c, n)
		if err != nil {
			return run, fmt.Errorf("%s: %w", c.name, err)
		}
		run.Results = append(run.Results, m)
		rates[i], cpu[i] = []float64{m.Handshakes}, []float64{m.CPU}
	}
	for round := 1; round < cfg.Rounds; round++ {
		for i, c := range all {
			fmt.Fprintf(cfg.Progress, "%s: connecting again, round %d of %d\n", c.name, round+1, cfg.Rounds)
			rate, used, err := cfg.connect(ctx, c, n, nil)
			if err != nil {
				return run, fmt.Errorf("%s: %w", c.name, err)
			}
			rates[i], cpu[i] = append(rates[i], rate), append(cpu[i], used)
		}
	}
	for i := range all {
		run.Results[i].Handshakes, run.Results[i].CPU = median(rates[i]), median(cpu[i])
	}
	return run, nil
}

// hold connects all, and then looks at what they take while nothing happens.
func (cfg *ConnectionsConfig) hold(ctx context.Context, c *contender, n int) (m ConnectionsResult, err error) {
	m.Name = c.name
	before, err := residents(c.pids)
	if err != nil {
		return m, err
	}
	m.Base = before / int64(len(c.pids))
	m.Handshakes, m.CPU, err = cfg.connect(ctx, c, n, func() error {
		w := load{warmup: crowdSettle, duration: cfg.Idle}.window()
		waitUntil(ctx, w.from)
		after, err := residents(c.pids)
		if err != nil {
			return err
		}
		m.Bytes = ratio(float64(after-before), float64(n*len(c.pids)))
		used, err := exactCPUTimes([][]int{c.pids})
		if err != nil {
			return err
		}
		if !waitUntil(ctx, w.to) {
			return ctx.Err()
		}
		later, err := exactCPUTimes([][]int{c.pids})
		if err == nil && cfg.Idle > 0 {
			m.IdleCores = (later[0] - used[0]).Seconds() / cfg.Idle.Seconds()
		}
		return err
	})
	return m, err
}

// connect connects all clients, does what is to be done meanwhile, and lets them go. It returns the handshakes a
// second and the server's CPU time for each, in µs.
func (cfg *ConnectionsConfig) connect(ctx context.Context, c *contender, n int, meanwhile func() error) (rate, cpu float64, err error) {
	crowd, err := startCrowd(ctx, cfg.Binary, "bench", c.servers(), n)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	before, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return 0, 0, err
	}
	took, err := crowd.open(ctx, nil)
	if err != nil {
		return 0, 0, err
	}
	after, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return 0, 0, err
	}
	all := float64(crowd.clients)
	rate, cpu = ratio(all, took.Seconds()), ratio(float64((after[0]-before[0]).Microseconds()), all)
	if meanwhile != nil {
		if err = meanwhile(); err != nil {
			return 0, 0, err
		}
	}
	if err = crowd.close(ctx); err != nil {
		return 0, 0, err
	}
	if !waitUntil(ctx, time.Now().Add(time.Second).UnixNano()) { // the server lets go of them
		return 0, 0, ctx.Err()
	}
	return rate, cpu, nil
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

// Print writes the report for people.
func (r *ConnectionsReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nconnections: each subscribed to one channel; handshakes until subscribed; idle over %.3g s\n\n", r.Idle)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "connections\t\tbase RSS\tRSS each\thandshakes/s\tCPU each\tidle CPU\t")
	for _, run := range r.Runs {
		for i, m := range run.Results {
			n := strconv.Itoa(run.Connections)
			if i == 0 && r.Replicas > 1 {
				n = fmt.Sprintf("%d × %d", r.Replicas, run.Connections)
			}
			fmt.Fprintf(t, "%s\t%s\t%.1f MB\t%.1f KB\t%.0f\t%.0f µs\t%.2f %%\t\n", n, m.Name, float64(m.Base)/1e6, m.Bytes/1e3, m.Handshakes, m.CPU, 100*m.IdleCores)
		}
		if len(run.Results) == 2 {
			f, p := run.Results[0], run.Results[1]
			fmt.Fprintf(t, "\tratio\t\t%.2f\t%.2f\t%.2f\t%.2f\t\n", ratio(f.Bytes, p.Bytes), ratio(f.Handshakes, p.Handshakes), ratio(f.CPU, p.CPU), ratio(f.IdleCores, p.IdleCores))
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintln(w, "aims: RSS each at most 10 KB; handshakes/s at least 1.2 times the peer's")
	return nil
}
