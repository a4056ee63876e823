package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
)

// benchCrowd is what the benchmarks with thousands of clients have in common.
type benchCrowd struct {
	Peer   string `type:"existingfile" placeholder:"FILE" help:"The program of e2e/peer, to be measured beside; built where this runs inside the repository."`
	NoPeer bool   `help:"Measure Forgewire alone."`
	JSON   string `name:"json" type:"path" placeholder:"FILE" help:"Write the figures there too."`
}

// run measures, and shows the report.
func (c *benchCrowd) run(ctx context.Context, measure func(bench.CrowdConfig) (reporter, error)) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg := bench.CrowdConfig{Peer: c.Peer, Binary: binary, Environ: os.Environ(), Progress: os.Stderr}
	if cfg.Peer == "" && !c.NoPeer {
		dir, err := os.MkdirTemp("", "forgewire-bench-")
		if err != nil {
			return fmt.Errorf("make a folder for the peer: %w", err)
		}
		defer os.RemoveAll(dir)
		if cfg.Peer, err = bench.BuildPeer(ctx, dir, os.Stderr); err != nil {
			return err
		}
	}
	report, err := measure(cfg)
	if err != nil {
		return err
	}
	return writeReport(report, c.JSON)
}

type benchConnections struct {
	benchCrowd

	Connections []int         `default:"10000,19000" help:"How many to each process; each number is measured."`
	Replicas    int           `default:"1" help:"How many to start."`
	Rounds      int           `default:"3" help:"How often all connect; the contenders take turns."`
	Idle        time.Duration `default:"30s" help:"How long to watch them while nothing happens; pings come every 25 s."`
}

func (c *benchConnections) Run(ctx context.Context) error {
	return c.run(ctx, func(cfg bench.CrowdConfig) (reporter, error) {
		return bench.Connections(ctx, bench.ConnectionsConfig{CrowdConfig: cfg, Connections: c.Connections, Replicas: c.Replicas, Rounds: c.Rounds, Idle: c.Idle})
	})
}

type benchBroadcast struct {
	benchCrowd

	Clients  int `default:"10000" help:"How many subscribe to the channel."`
	Size     int `default:"128" help:"Of a message's data, in bytes."`
	Messages int `default:"20" help:"How many, one when all have the last, in a round."`
	Backlog  int `default:"100" help:"How many at once, in a round."`
	Rounds   int `default:"5" help:"In which the contenders take turns."`
}

func (c *benchBroadcast) Run(ctx context.Context) error {
	return c.run(ctx, func(cfg bench.CrowdConfig) (reporter, error) {
		return bench.Broadcast(ctx, bench.BroadcastConfig{CrowdConfig: cfg, Clients: c.Clients, Size: c.Size, Messages: c.Messages, Backlog: c.Backlog, Rounds: c.Rounds})
	})
}

type benchResume struct {
	benchCrowd

	Clients int `default:"1000" help:"How many come back at once."`
	Missed  int `default:"1000" help:"Messages that each has missed."`
	Size    int `default:"128" help:"Of a message's data, in bytes."`
	Rounds  int `default:"5" help:"In which the contenders take turns."`
}

func (c *benchResume) Run(ctx context.Context) error {
	return c.run(ctx, func(cfg bench.CrowdConfig) (reporter, error) {
		return bench.Resume(ctx, bench.ResumeConfig{CrowdConfig: cfg, Clients: c.Clients, Missed: c.Missed, Size: c.Size, Rounds: c.Rounds})
	})
}

type benchPresence struct {
	benchCrowd

	Clients  int           `default:"10000" help:"Members of one channel, over all replicas."`
	Listed   int           `default:"1000" help:"Members of the channel whose list is asked for."`
	Replicas int           `default:"1" help:"How many to start."`
	Callers  int           `default:"8" help:"How many ask for the stats at once."`
	Duration time.Duration `default:"3s" help:"Of each measurement."`
}

func (c *benchPresence) Run(ctx context.Context) error {
	return c.run(ctx, func(cfg bench.CrowdConfig) (reporter, error) {
		return bench.Presence(ctx, bench.PresenceConfig{CrowdConfig: cfg, Clients: c.Clients, Listed: c.Listed, Replicas: c.Replicas, Callers: c.Callers, Duration: c.Duration})
	})
}

// benchLoader is a part of the others: a process of clients.
type benchLoader struct{}

func (benchLoader) Run(ctx context.Context) error { return bench.Load(ctx, os.Stdin, os.Stdout) }
