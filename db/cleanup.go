package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	cleanupEvery   = 5 * time.Minute
	cleanupTimeout = time.Minute // of one job: what it does not finish is left for the next time

	advisorySpace   = 1181444979
	advisoryCleanup = 12
)

// CleanupJob removes in tx what nobody needs any more. It should take no more than a part at a time: it
// holds the locks of all that it touched until it ends.
type CleanupJob func(ctx context.Context, tx pgx.Tx) error

// Cleanup runs jobs every five minutes, each on one replica at a time and once for all replicas, but only
// while the pool is in use: where nobody asks anything there is little to clean, and a replica at rest runs no
// query.
type Cleanup struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	every  time.Duration
	jobs   []namedJob
	seen   uint64 // acquires of the pool when the last round ended
}

type namedJob struct {
	name string
	run  CleanupJob
}

// NewCleanup returns a Cleanup without jobs; Run starts it.
func NewCleanup(pool *pgxpool.Pool, logger *slog.Logger) *Cleanup {
	return &Cleanup{pool: pool, logger: logger, every: cleanupEvery}
}

// Add adds a job, before Run. Its name is the same on all replicas.
func (c *Cleanup) Add(name string, job CleanupJob) { c.jobs = append(c.jobs, namedJob{name, job}) }

// Run works until ctx ends.
func (c *Cleanup) Run(ctx context.Context) error {
	for {
		t := time.NewTimer(c.every/2 + rand.N(c.every)) // replicas that started together need not ask together
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		c.round(ctx)
	}
}

// round runs what is due.
func (c *Cleanup) round(ctx context.Context) {
	if PoolStats(c.pool).Acquired == c.seen {
		return
	}
	for _, j := range c.jobs {
		if err := c.runOne(ctx, j); err != nil && ctx.Err() == nil {
			c.logger.Warn("a clean-up failed, trying again later", "job", j.name, "error", err)
		}
	}
	c.seen = PoolStats(c.pool).Acquired
}

var errNotDue = errors.New("another replica runs the job, or has just done so")

func (c *Cleanup) runOne(ctx context.Context, j namedJob) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	err := InTx(ctx, c.pool, func(tx pgx.Tx) error {
		var due bool
		err := tx.QueryRow(ctx, `WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1, $2) AS locked),
				claim AS (INSERT INTO forgewire.cleanups AS c SELECT $3, clock_timestamp() FROM mine WHERE locked
					ON CONFLICT (job) DO UPDATE SET ran = excluded.ran WHERE c.ran <= excluded.ran - $4::interval RETURNING 1)
			SELECT EXISTS (SELECT FROM claim)`, advisorySpace, advisoryCleanup, j.name, c.every/2).Scan(&due)
		switch {
		case err != nil:
			return fmt.Errorf("claim the job: %w", err)
		case !due:
			return errNotDue // and nothing is written
		}
		return j.run(ctx, tx)
	})
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}
