package db

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Schema is the PostgreSQL schema in which everything of ours lives, river's queue included.
const Schema = "forgewire"

// queueVersion is the last of river's migrations that this binary has.
const queueVersion = 8

// migrateQueue brings river's tables up to the version that this binary was built with. They come before our
// own migrations, which may build on them. River takes no lock of its own: ours is the one of
// createSchema, held by a session.
func migrateQueue(ctx context.Context, pc *pgxpool.Config) error {
	pc = pc.Copy()
	pc.MinConns, pc.MaxConns = 0, 2
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return errBadURL
	}
	defer pool.Close()
	lock, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to migrate the queue: %w", err)
	}
	defer lock.Release()
	if _, err = lock.Exec(ctx, "SELECT pg_advisory_lock(1181444979, 0)"); err != nil {
		return fmt.Errorf("take the queue's migration lock: %w", err)
	}
	// The lock goes with the session, whose connection ends with the pool.
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: Schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("read the queue's migrations: %w", err)
	}
	if _, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate the queue: %w", err)
	}
	return nil
}
