package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/infra/devstack"
)

// LogsConfig says what Logs measures: each number of logs with each number of listening replicas.
type LogsConfig struct {
	Logs       []int
	Listeners  []int
	Publishing int // replicas that publish, each in group commits of its own
	Publishers int // in all
	Size       int // of a message's data, in bytes
	Duration   time.Duration
	Warmup     time.Duration
	Setup
}

// Logs measures what messages cost where channels are spread over several logs, each a PostgreSQL server of its own, and
// every replica listens to each: group commits, and one connection a replica and log that hears of them. There is no HTTP
// and no WebSocket: see Fanout for those.
func Logs(ctx context.Context, cfg LogsConfig) (out *Result, err error) {
	if cfg.Size < minSize || cfg.Size > maxSize || cfg.Publishers < 1 || cfg.Publishers >= maxPeople || cfg.Publishing < 1 || cfg.Duration <= 0 {
		return nil, errors.New("the size, the publishers or the duration cannot be measured")
	}
	if len(cfg.Logs) == 0 || slices.Min(append(cfg.Logs, cfg.Listeners...)) < 1 || slices.Max(append(cfg.Logs, cfg.Listeners...)) > mostServers {
		return nil, fmt.Errorf("logs and listeners are from 1 to %d", mostServers)
	}
	most := slices.Max(cfg.Logs)
	fmt.Fprintf(cfg.Progress, "starting %d private PostgreSQL servers\n", most)
	servers, stop, err := startServers(ctx, most)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	rates, cpu := &Table{Name: "publish to receive"}, &Table{Name: "CPU a message"}
	for _, logs := range cfg.Logs {
		for _, listeners := range cfg.Listeners {
			name := fmt.Sprintf("%d logs, %d listeners", logs, listeners)
			fmt.Fprintln(cfg.Progress, name)
			run, err := logsRun(ctx, cfg, servers[:logs], listeners)
			if err != nil {
				return nil, err
			}
			rates.Rows, cpu.Rows = append(rates.Rows, run.row(name)), append(cpu.Rows, run.cpuRow(name))
		}
	}
	return &Result{Bench: "logs", What: fmt.Sprintf("group commits of %d replicas, heard by many on each log: %d publishers, %d bytes a message, %.3g s each",
		cfg.Publishing, cfg.Publishers, cfg.Size, cfg.Duration.Seconds()), Tables: []*Table{rates, cpu},
		Notes: []string{"All logs, publishers and listeners share the CPUs: more logs cannot make more messages here. The CPU time of a message counts; that of the generator is also the listeners'."}}, nil
}

// mostServers bounds logs, and the listeners of each.
const mostServers = 64

// startServers starts PostgreSQL servers. stop ends those that were started, also after an error.
func startServers(ctx context.Context, n int) (servers []*devstack.Server, stop func() error, err error) {
	dir, err := devstack.MkdirTemp("", "forgewire-bench-logs-")
	stop = func() (err error) {
		for _, s := range servers {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return nil, stop, fmt.Errorf("make a folder for the servers: %w", err)
	}
	for i := range n {
		s, err := devstack.StartPostgres(ctx, filepath.Join(dir, strconv.Itoa(i)), nil, io.Discard)
		if err != nil {
			return servers, stop, err
		}
		servers = append(servers, s)
		if err = db.Migrate(ctx, s.URL()); err != nil {
			return servers, stop, err
		}
	}
	return servers, stop, nil
}

func logsRun(ctx context.Context, cfg LogsConfig, servers []*devstack.Server, listeners int) (*sample, error) {
	cpu := watched{"generator": self, "postgres": func() (pids []int) {
		for _, s := range servers {
			pids = append(pids, serverAndChildren(s.PID())()...)
		}
		return pids
	}}
	l := load{publishers: max(1, cfg.Publishers/len(servers)), size: cfg.Size, warmup: cfg.Warmup, duration: cfg.Duration}
	samples := make([]*sample, len(servers))
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range servers {
		watch := watched{}
		if i == 0 {
			watch = cpu
		}
		g.Go(func() (err error) {
			samples[i], err = measureFloor(ctx, s.URL(), l, cfg.Publishing, listeners, watch)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := newSample()
	for _, s := range samples {
		all.add(s)
	}
	all.seconds = cfg.Duration.Seconds() // they ran at the same time
	return all, nil
}
