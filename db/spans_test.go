package db_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/infra/monitor"
)

// A request's time is told apart: waiting for a connection, and the database's own.
func TestSpans(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MaxConns: 1})
	c, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(150*time.Millisecond, c.Release)
	m := monitor.New()
	ctx, r := m.Begin(context.WithoutCancel(t.Context()))
	if err = pool.QueryRow(ctx, "SELECT 1 FROM pg_sleep(0.1)").Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	b := &pgx.Batch{}
	b.Queue("SELECT pg_sleep(0.1)")
	if err = pool.SendBatch(ctx, b).Close(); err != nil {
		t.Fatal(err)
	}
	r.Done("/a", "GET", 200)
	slow := m.Stats().Slow
	if len(slow) != 1 || slow[0].Parts["pool_wait"] <= 0 || slow[0].Parts["query"] < 200 || slow[0].Parts["pool_wait"]+slow[0].Parts["query"] > slow[0].Duration {
		t.Errorf("%+v", slow)
	}
}
