package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
)

// benchPeer is what stands beside Forgewire where there are thousands of clients.
type benchPeer struct {
	Peer   string `type:"existingfile" placeholder:"FILE" help:"The program of e2e/peer, to be measured beside; built where this runs inside the repository."`
	NoPeer bool   `help:"Measure Forgewire alone."`
}

// find returns the peer's program, "" for none, and what removes it.
func (p benchPeer) find(ctx context.Context) (program string, remove func(), err error) {
	if p.NoPeer || p.Peer != "" {
		return p.Peer, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "forgewire-bench-")
	if err != nil {
		return "", nil, fmt.Errorf("make a folder for the peer: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) } // a temporary folder: no harm if it stays
	if program, err = bench.BuildPeer(ctx, dir, os.Stderr); err != nil {
		remove()
		return "", nil, err
	}
	return program, remove, nil
}

// benchCrowd is what the benchmarks with thousands of clients have in common.
type benchCrowd struct {
	benchTarget
	benchOutput
	benchPeer
}

func (c *benchCrowd) measure(ctx context.Context, measure func(bench.CrowdConfig) (*bench.Result, error)) error {
	return c.run(ctx, c.benchTarget, func(s bench.Setup) (*bench.Result, error) {
		peer, remove, err := c.find(ctx)
		if err != nil {
			return nil, err
		}
		defer remove()
		return measure(bench.CrowdConfig{Setup: s, Peer: peer})
	})
}

type benchConnections struct {
	benchCrowd

	Connections []int         `default:"10000,19000" help:"How many to each process; each number is measured."`
	Replicas    int           `default:"1" help:"How many to start."`
	Rounds      int           `default:"3" help:"How often all connect; the contenders take turns."`
	Rate        int           `default:"2000" help:"How many come in a second, open loop; 0 leaves it out."`
	Idle        time.Duration `default:"30s" help:"How long to watch them while nothing happens; pings come every 25 s."`
	Settle      time.Duration `default:"15s" help:"How long to wait before that."`
}

func (c *benchConnections) Run(ctx context.Context) error {
	return c.measure(ctx, func(cfg bench.CrowdConfig) (*bench.Result, error) {
		return bench.Connections(ctx, bench.ConnectionsConfig{CrowdConfig: cfg, Connections: c.Connections, Replicas: c.Replicas, Rounds: c.Rounds, Rate: c.Rate, Idle: c.Idle, Settle: c.Settle})
	})
}

type benchBroadcast struct {
	benchCrowd

	Clients  int           `default:"10000" help:"How many subscribe to the channel."`
	Size     int           `default:"128" help:"Of a message's data, in bytes."`
	Messages int           `default:"20" help:"How many, one when all have the last, in a round."`
	Backlog  int           `default:"100" help:"How many at once, in a round."`
	Rounds   int           `default:"5" help:"In which the contenders take turns."`
	Rate     int           `default:"5" help:"Messages a second, open loop; 0 leaves it out."`
	Duration time.Duration `default:"5s" help:"Of the open loop."`
}

func (c *benchBroadcast) Run(ctx context.Context) error {
	return c.measure(ctx, func(cfg bench.CrowdConfig) (*bench.Result, error) {
		return bench.Broadcast(ctx, bench.BroadcastConfig{CrowdConfig: cfg, Clients: c.Clients, Size: c.Size, Messages: c.Messages, Backlog: c.Backlog, Rounds: c.Rounds, Rate: c.Rate, Duration: c.Duration})
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
	return c.measure(ctx, func(cfg bench.CrowdConfig) (*bench.Result, error) {
		return bench.Resume(ctx, bench.ResumeConfig{CrowdConfig: cfg, Clients: c.Clients, Missed: c.Missed, Size: c.Size, Rounds: c.Rounds})
	})
}

type benchPresence struct {
	benchCrowd

	Clients  int           `default:"10000" help:"Members of one channel, over all replicas."`
	Listed   int           `default:"1000" help:"Members of the channel whose list is asked for."`
	Replicas int           `default:"1" help:"How many to start."`
	Callers  int           `default:"8" help:"How many ask for the stats at once."`
	Rate     int           `default:"1000" help:"Of asking for the stats, open loop; 0 leaves it out."`
	Duration time.Duration `default:"3s" help:"Of each measurement."`
}

func (c *benchPresence) Run(ctx context.Context) error {
	return c.measure(ctx, func(cfg bench.CrowdConfig) (*bench.Result, error) {
		return bench.Presence(ctx, bench.PresenceConfig{CrowdConfig: cfg, Clients: c.Clients, Listed: c.Listed, Replicas: c.Replicas, Callers: c.Callers, Rate: c.Rate, Duration: c.Duration})
	})
}

// benchLoader is a part of the others: a process of clients.
type benchLoader struct{}

func (benchLoader) Run(ctx context.Context) error { return bench.Load(ctx, os.Stdin, os.Stdout) }
