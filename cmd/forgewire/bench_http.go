package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
	"forgewire/infra/config"
)

type benchHTTP struct {
	Duration time.Duration `default:"2s" help:"Of each step of a ramp, and of each turn at saturation."`
	Rounds   int           `default:"5" help:"Of turns at saturation."`
	Users    int           `default:"100" help:"Of the guide's suite."`
	Requests int           `default:"10" help:"Of each of them."`
	Rows     int           `default:"10000" help:"Of one export."`
	JSON     string        `name:"json" type:"path" placeholder:"FILE" help:"Write the figures there too."`
}

func (benchHTTP) Help() string {
	return "Starts a private PostgreSQL, Valkey if it is installed, a replica, and a bare net/http and pgx handler. The generator " +
		"shares the CPUs with them: trust the ratios, not the figures of another machine."
}

func (c *benchHTTP) Run(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	report, err := bench.HTTP(ctx, bench.HTTPConfig{Duration: c.Duration, Rounds: c.Rounds, Users: c.Users, Requests: c.Requests, Rows: c.Rows,
		Binary: binary, Environ: os.Environ(), Progress: os.Stderr})
	if err != nil {
		return err
	}
	return writeReport(report, c.JSON)
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
