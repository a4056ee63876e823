package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/infra/config"
	"forgewire/infra/logging"
)

type serveCommand struct {
	Migrate bool `help:"Bring the database's schema up to date first."`
}

// Help lists the environment, from the struct that reads it.
func (serveCommand) Help() string {
	table := "    " + strings.ReplaceAll(strings.TrimSpace(config.Table()), "\n", "\n    ") // indented, so that kong keeps its lines
	return "The environment:\n\n" + table +
		"\n\nURLs, keys and secrets may stand in files, named by NAME_FILE: DATABASE_URL_FILE=/run/secrets/database-url." +
		"\n\nSIGTERM or Ctrl-C drains and exits with 0 within FORGEWIRE_SHUTDOWN_TIMEOUT; a second signal exits at once."
}

func (c *serveCommand) Run(ctx context.Context) error {
	cfg, err := config.Load(os.Environ())
	if err != nil {
		return err
	}
	logger := logging.New(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	a, err := newApp(appConfig{Config: cfg, Logger: logger, Replica: name})
	if err != nil {
		return err
	}
	ln, err := listen(ctx, cfg.Port, "PORT")
	if err != nil {
		return err
	}
	var metrics net.Listener
	if cfg.MetricsPort != 0 {
		if metrics, err = listen(ctx, cfg.MetricsPort, "FORGEWIRE_METRICS_PORT"); err != nil {
			return err
		}
	}
	logger.Info("listening", "address", ln.Addr().String(), "version", version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx, ln, metrics) })
	if c.Migrate {
		g.Go(func() error { return migrateUntilDone(ctx, logger, cfg) })
	}
	return g.Wait()
}

func listen(ctx context.Context, port int, variable string) (net.Listener, error) {
	// A dead client is noticed by pings and timeouts; TCP's own keep-alive would be four system calls a connection.
	ln, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w: set %s to a free one", port, err, variable)
	}
	return ln, nil
}

// migrateUntilDone migrates as soon as the database answers; until then the replica is alive and not ready.
func migrateUntilDone(ctx context.Context, logger *slog.Logger, cfg *config.Config) error {
	for {
		err := migrate(ctx, cfg)
		if err == nil {
			logger.Info("the schema is up to date")
			return nil
		}
		logger.Warn("the migration failed, trying again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}
