package main

import (
	"context"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
	"forgewire/infra/config"
)

type benchHTTP struct {
	benchTarget
	benchOutput

	Duration time.Duration `default:"2s" help:"Of each step of a ramp, and of each turn at saturation."`
	Rounds   int           `default:"5" help:"Of turns at saturation."`
	Users    int           `default:"100" help:"Of the guide's suite."`
	Requests int           `default:"10" help:"Of each of them."`
	Rows     int           `default:"10000" help:"Of one export."`
	Sketch   string        `type:"path" placeholder:"PYTHON" help:"Measure the guide's sketch too, with this Python, which has its packages: e2e/peer/sketch/requirements.txt."`
}

func (benchHTTP) Help() string {
	return "Starts a private PostgreSQL, Valkey if it is installed, a replica, and a bare net/http and pgx handler. The generator " +
		"shares the CPUs with them: trust the ratios, not the figures of another machine."
}

func (c *benchHTTP) Run(ctx context.Context) error {
	return c.run(ctx, c.benchTarget, func(s bench.Setup) (*bench.Result, error) {
		return bench.HTTP(ctx, bench.HTTPConfig{Duration: c.Duration, Rounds: c.Rounds, Users: c.Users, Requests: c.Requests, Rows: c.Rows,
			Sketch: c.Sketch, Setup: s})
	})
}

// benchFloor is a part of bench http: the bare handler, a process of its own as the replica is.
type benchFloor struct {
	Tenant   string `required:""`
	Constant int    `required:""`
}

func (c *benchFloor) Run(ctx context.Context) error {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return err
	}
	return bench.Floor(ctx, bench.FloorConfig{Port: cfg.Port, Database: cfg.DatabaseURL.Reveal(), MaxConns: cfg.DBPoolMax, Tenant: c.Tenant, Constant: c.Constant})
}
