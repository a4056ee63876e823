package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Round is one round of the jobs, now.
func (c *Cleanup) Round(ctx context.Context) { c.round(ctx) }

// SetEvery makes rounds come at other times.
func (c *Cleanup) SetEvery(d time.Duration) { c.every = d }

// VisibleTenants reads, as a read of a tenant's, whose prompts a query without a WHERE finds.
func VisibleTenants(ctx context.Context, pool *pgxpool.Pool, tenant string) ([]string, error) {
	return query(ctx, pool, tenant, "SELECT DISTINCT tenant FROM forgewire.prompts", nil, func(rows pgx.Rows) ([]string, error) { return pgx.CollectRows(rows, pgx.RowTo[string]) })
}
