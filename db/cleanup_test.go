package db_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// cleaner is one replica's Cleanup, with one job.
type cleaner struct {
	*db.Cleanup
	pool *pgxpool.Pool
}

func newCleaner(t *testing.T, url string, logger *slog.Logger, job db.CleanupJob) cleaner {
	t.Helper()
	pool := newPool(t, db.PoolConfig{URL: url, MaxConns: 2})
	c := cleaner{db.NewCleanup(pool, logger), pool}
	c.Add("count", job)
	return c
}

func (c cleaner) use(t *testing.T) {
	t.Helper()
	if _, err := c.pool.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Error(err)
	}
}

// Many replicas run a job once, and again when it is due; one that is not in use asks nothing.
func TestCleanup(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	var mu sync.Mutex
	ran := 0
	job := func(ctx context.Context, tx pgx.Tx) error {
		mu.Lock()
		defer mu.Unlock()
		ran++
		_, err := tx.Exec(ctx, "SELECT pg_sleep(0.05)")
		return err
	}
	var replicas []cleaner
	for range 4 {
		replicas = append(replicas, newCleaner(t, url, slog.New(slog.DiscardHandler), job))
	}
	all := func() {
		var wg sync.WaitGroup
		for _, c := range replicas {
			c.use(t)
			wg.Go(func() { c.Round(t.Context()) })
		}
		wg.Wait()
	}
	all()
	all()
	if ran != 1 {
		t.Errorf("the job ran %d times", ran)
	}
	if _, err := replicas[0].pool.Exec(t.Context(), "UPDATE forgewire.cleanups SET ran = ran - interval '1 hour'"); err != nil {
		t.Fatal(err)
	}
	all()
	if ran != 2 {
		t.Errorf("when it was due again it ran, %d times in all", ran)
	}
	before := db.PoolStats(replicas[1].pool).Acquired
	replicas[1].Round(t.Context())
	if after := db.PoolStats(replicas[1].pool).Acquired; after != before {
		t.Errorf("a replica that nobody used ran %d queries", after-before)
	}
}

// A job that fails is told of, is undone, and is due again.
func TestCleanupFails(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	tries := 0
	c := newCleaner(t, dbtest.New(t), slog.New(slog.NewTextHandler(&log, nil)), func(context.Context, pgx.Tx) error {
		tries++
		return errors.New("why")
	})
	for range 2 {
		c.use(t)
		c.Round(t.Context())
	}
	if tries != 2 || strings.Count(log.String(), "why") != 2 {
		t.Errorf("%d tries, %s", tries, log.String())
	}
}

func TestCleanupRun(t *testing.T) {
	t.Parallel()
	ran := make(chan struct{}, 1)
	c := newCleaner(t, dbtest.New(t), slog.New(slog.DiscardHandler), func(context.Context, pgx.Tx) error {
		select {
		case ran <- struct{}{}:
		default:
		}
		return nil
	})
	c.SetEvery(20 * time.Millisecond)
	c.use(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	<-ran
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
