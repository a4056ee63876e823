package main

import (
	"context"
	"fmt"
	"os"

	"forgewire/db"
	"forgewire/infra/config"
	"forgewire/realtime"
)

// logsCommand groups what concerns the set of logs over which channels are spread.
type logsCommand struct {
	Show logsShowCommand `cmd:"" default:"1" help:"Print the recorded set."`
	Set  logsSetCommand  `cmd:"" help:"Record the list of this environment as the set: replicas with another one stop serving."`
}

type logsShowCommand struct{}

func (logsShowCommand) Run(ctx context.Context) error {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return err
	}
	set, err := realtime.ReadLogs(ctx, cfg.ListenDatabaseURL.Reveal())
	if err != nil {
		return err
	}
	printLogs(set)
	return nil
}

type logsSetCommand struct {
	Replace bool `help:"A database that is new to the set may stand in the place of one that is lost for good."`
}

func (logsSetCommand) Help() string {
	return "The list is DATABASE_URL's database (by LISTEN_DATABASE_URL) and those of FORGEWIRE_LOG_DATABASE_URLS. It must begin with " +
		"the recorded one. All of them must answer. See docs/scaling.md, \"Add a log\"."
}

func (c *logsSetCommand) Run(ctx context.Context) error {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return err
	}
	for _, url := range logURLs(cfg) {
		if err = db.Migrate(ctx, url); err != nil {
			return err
		}
	}
	set, err := realtime.SetLogs(ctx, logURLs(cfg), c.Replace)
	if err != nil {
		return err
	}
	printLogs(set)
	return nil
}

func printLogs(set realtime.LogSet) {
	fmt.Println("generation", set.Generation)
	for place, epoch := range set.Epochs {
		fmt.Println(place, epoch)
	}
}

// logURLs are those of all logs, past poolers.
func logURLs(cfg *config.Config) []string {
	return append([]string{cfg.ListenDatabaseURL.Reveal()}, cfg.Logs()...)
}

// migrate brings every log up to date, the first one first, and records the set where nothing was ever published.
func migrate(ctx context.Context, cfg *config.Config) error {
	urls := logURLs(cfg)
	for place, url := range urls {
		if err := db.Migrate(ctx, url); err != nil && place > 0 {
			return fmt.Errorf("log %d: %w", place, err)
		} else if err != nil {
			return err
		}
	}
	if len(urls) == 1 {
		return nil
	}
	_, err := realtime.BeginLogs(ctx, urls)
	return err
}
