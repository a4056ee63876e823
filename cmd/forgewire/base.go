package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/infra/memory"
	"forgewire/infra/monitor"
	"forgewire/infra/tracing"
	"forgewire/realtime"
)

// publishConns is for the publisher, presence and the like, each of which uses one connection at a time.
const publishConns = 4

// logConns are for reading the past from a further log.
const logConns = 16

// flightConns are for elections, heartbeats and takeovers, one at a time each.
const flightConns = 3

// traceGrace is how long the last traces may take to be sent.
const traceGrace = time.Second

// poolGrace is how long connections to the database may take to end.
const poolGrace = time.Second

// base is what the parts of a replica stand on.
type base struct {
	requests *pgxpool.Pool // of everything that a client asks
	publish  *pgxpool.Pool // a small one of the publisher's own, so that it waits behind no query
	logs     []realtime.LogConfig
	flights  *pgxpool.Pool // another one, for who leads which answer: a heartbeat that waits is taken for a death
	memory   *memory.Governor
	monitor  *monitor.Monitor
	tracing  *tracing.Tracing // nil where no variable asks for traces
	cleanup  *db.Cleanup
}

func newBase(cfg appConfig, logger *slog.Logger) (*base, error) {
	b := &base{monitor: monitor.New()}
	var err error
	if b.memory, err = memory.New(memory.Config{Logger: logger}); err != nil {
		return nil, err
	}
	c := db.PoolConfig{URL: cfg.DatabaseURL.Reveal(), MinConns: int32(cfg.DBPoolMin), MaxConns: int32(cfg.DBPoolMax), Logger: logger}
	keep := int32(1)
	if cfg.IdleRelease > 0 { // a replica at rest has no connection
		c.MinConns, keep = 0, 0
	}
	if cfg.Traces() {
		if b.tracing, err = tracing.Start(context.Background(), tracing.Config{Logger: logger, Version: version, Replica: cfg.Replica}); err != nil {
			return nil, err
		}
		c.Tracer = b.tracing.Pgx()
	}
	if b.requests, err = db.NewPool(context.Background(), c); err != nil {
		return nil, err
	}
	c.MinConns, c.MaxConns = keep, publishConns
	if b.publish, err = db.NewPool(context.Background(), c); err != nil {
		b.requests.Close()
		return nil, err
	}
	c.MinConns, c.MaxConns = 0, flightConns
	if b.flights, err = db.NewPool(context.Background(), c); err != nil {
		b.requests.Close()
		b.publish.Close()
		return nil, err
	}
	if err = b.openLogs(cfg, c); err != nil {
		b.close()
		return nil, err
	}
	b.cleanup = db.NewCleanup(b.requests, logger)
	b.cleanup.Add("hidden history", realtime.CleanUp)
	b.cleanup.Add("members of dead replicas", realtime.CleanPresence)
	b.cleanup.Add("expired answers", db.CleanAnswers)
	b.cleanup.Add("ended jobs", db.CleanQueue)
	return b, nil
}

// start runs what works in the background until ctx ends.
func (b *base) start(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return b.memory.Run(ctx) })
	g.Go(func() error { return b.cleanup.Run(ctx) })
}

// pools are named for the figures.
func (b *base) pools() map[string]*pgxpool.Pool {
	all := map[string]*pgxpool.Pool{"requests": b.requests, "publish": b.publish, "flights": b.flights}
	for i, l := range b.logs {
		all[fmt.Sprintf("log %d", i+1)], all[fmt.Sprintf("log %d publish", i+1)] = l.Pool, l.PublishPool
	}
	return all
}

// close ends the pools, but does not wait for a server that does not answer: pgx tries for 15 s to tell it that a query is
// cancelled, and then the process would outlive its grace and be killed.
func (b *base) close() {
	var all sync.WaitGroup
	for _, pool := range b.pools() {
		all.Go(pool.Close)
	}
	closed := make(chan struct{})
	go func() { all.Wait(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(poolGrace):
	}
}

// openLogs makes the pools of further logs.
func (b *base) openLogs(cfg appConfig, c db.PoolConfig) error {
	for _, url := range cfg.Logs() {
		c.URL, c.MinConns, c.MaxConns = url, 0, logConns
		reads, err := db.NewPool(context.Background(), c)
		if err != nil {
			return err
		}
		c.MaxConns = publishConns
		publish, err := db.NewPool(context.Background(), c)
		if err != nil {
			reads.Close()
			return err
		}
		b.logs = append(b.logs, realtime.LogConfig{Pool: reads, PublishPool: publish, ListenURL: url})
	}
	return nil
}
