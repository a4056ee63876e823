package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// Round is one round of the jobs, now.
func (c *Cleanup) Round(ctx context.Context) { c.round(ctx) }

// SetEvery makes rounds come at other times.
func (c *Cleanup) SetEvery(d time.Duration) { c.every = d }

// VisibleTenants reads, as a read of a tenant's, whose prompts a query without a WHERE finds.
func VisibleTenants(ctx context.Context, pool *pgxpool.Pool, tenant string) ([]string, error) {
	return query(ctx, pool, tenant, "SELECT DISTINCT tenant FROM forgewire.prompts", nil, func(rows pgx.Rows) ([]string, error) { return pgx.CollectRows(rows, pgx.RowTo[string]) })
}

// Sleep is a read of a tenant's that takes a minute, with a comment to know it by.
func Sleep(ctx context.Context, pool *pgxpool.Pool, tenant, comment string) error {
	_, err := query(ctx, pool, tenant, "SELECT pg_sleep(60) /* "+comment+" */", nil, func(rows pgx.Rows) (struct{}, error) {
		rows.Close()
		return struct{}{}, rows.Err()
	})
	return err
}

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
