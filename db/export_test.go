package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// Round is one round of the jobs, now.
func (c *Cleanup) Round(ctx context.Context) { c.round(ctx) }

// SetEvery makes rounds come at other times.
func (c *Cleanup) SetEvery(d time.Duration) { c.every = d }

// MigrateTo is Migrate that stops at a version of our own migrations.
func MigrateTo(ctx context.Context, url string, version int64) error {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	conn := stdlib.OpenDB(*pc.ConnConfig)
	defer conn.Close()
	if _, err = conn.ExecContext(ctx, createSchema); err != nil {
		return err
	}
	if err = migrateQueue(ctx, pc); err != nil {
		return err
	}
	p, err := provider(conn)
	if err != nil {
		return err
	}
	_, err = p.UpTo(ctx, version)
	return err
}
