package db

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// enter makes the rest of a transaction that of one tenant: row-level security then hides all other rows.
const enter = "SELECT forgewire.enter($1)"

// InTenant is InTx for one tenant: f sees and changes rows of that tenant alone, whatever its queries forget.
func InTenant(ctx context.Context, pool *pgxpool.Pool, tenant string, f func(pgx.Tx) error) error {
	return InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, enter, tenant); err != nil {
			return fmt.Errorf("enter the tenant: %w", err)
		}
		return f(tx)
	})
}

// LeaveTenant gives the rest of an InTenant transaction the rights of the pool's own role again, for what
// belongs to no tenant.
func LeaveTenant(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT forgewire.leave()"); err != nil {
		return fmt.Errorf("leave the tenant: %w", err)
	}
	return nil
}

// query runs one reading statement for one tenant in a single round trip: what is sent together is one
// transaction, which ends with it.
func query[T any](ctx context.Context, pool *pgxpool.Pool, tenant, sql string, args []any, collect func(pgx.Rows) (T, error)) (T, error) {
	var zero T
	b := &pgx.Batch{}
	b.Queue(enter, tenant)
	b.Queue(sql, args...)
	results := pool.SendBatch(ctx, b)
	defer results.Close() // what went wrong was returned by the two results
	if _, err := results.Exec(); err != nil {
		return zero, fmt.Errorf("enter the tenant: %w", err)
	}
	rows, err := results.Query()
	if err != nil {
		return zero, err //nolint:wrapcheck // the caller says what it read
	}
	return collect(rows)
}
