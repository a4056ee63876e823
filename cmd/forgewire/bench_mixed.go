package main

import (
	"context"
	"time"

	"forgewire/cmd/forgewire/bench"
)

type benchMixed struct {
	benchTarget
	benchOutput

	Replicas    int           `default:"2" help:"How many to start."`
	Subscribers int           `default:"20" help:"How many receive, each of all channels."`
	Channels    int           `default:"4" help:"Over how many the publishers are spread."`
	Size        int           `default:"150" help:"Of a message's data, in bytes."`
	Publish     int           `default:"500" help:"Messages a second over HTTP."`
	SQL         int           `name:"sql" default:"100" help:"Transactions a second with a business insert and a publish."`
	LLM         int           `name:"llm" default:"100" help:"Chat requests a second, of the mix of bench llm."`
	Cached      int           `default:"500" help:"Reads a second that the cache may answer."`
	Uncached    int           `default:"100" help:"Reads a second that it may not."`
	Write       int           `default:"20" help:"Prompts made a second."`
	Duration    time.Duration `default:"30s" help:"How long."`
	Seed        uint64        `default:"1" help:"Of the chat requests."`
}

func (benchMixed) Help() string {
	return "All of it is open loop: whatever the servers do, things are due at these rates, and a time counts from when a thing was due. " +
		"Of a deployment given by --url, the publishers in SQL need --database-url, and the LLM clients --model."
}

func (c *benchMixed) Run(ctx context.Context) error {
	return c.run(ctx, c.benchTarget, func(s bench.Setup) (*bench.Result, error) {
		return bench.Mixed(ctx, bench.MixedConfig{Replicas: c.Replicas, Subscribers: c.Subscribers, Channels: c.Channels, Size: c.Size,
			Publish: c.Publish, SQL: c.SQL, LLM: c.LLM, Cached: c.Cached, Uncached: c.Uncached, Write: c.Write,
			Warmup: bench.MixedWarmup, Duration: c.Duration, Seed: c.Seed, Setup: s})
	})
}
