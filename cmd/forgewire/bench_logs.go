package main

import (
	"context"
	"time"

	"forgewire/cmd/forgewire/bench"
)

type benchLogs struct {
	benchOutput

	Logs       []int         `default:"1,2,4" help:"How many logs, each a PostgreSQL server."`
	Listeners  []int         `default:"2,8,32" help:"How many replicas listen to each of them."`
	Publishing int           `default:"2" help:"How many of these publish."`
	Publishers int           `default:"64" help:"How many publish there at once, on all logs together."`
	Size       int           `default:"150" help:"Of a message's data, in bytes."`
	Duration   time.Duration `default:"4s" help:"Of each measurement."`
}

func (benchLogs) Help() string {
	return "Group commits and listeners alone, without HTTP and WebSocket. All share the CPUs: trust the CPU time of a message."
}

func (c *benchLogs) Run(ctx context.Context) error {
	return c.run(ctx, benchTarget{}, func(s bench.Setup) (*bench.Result, error) {
		return bench.Logs(ctx, bench.LogsConfig{Logs: c.Logs, Listeners: c.Listeners, Publishing: c.Publishing, Publishers: c.Publishers, Size: c.Size,
			Duration: c.Duration, Warmup: benchWarmup, Setup: s})
	})
}
