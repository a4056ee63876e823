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
	return retried(ctx, func() error { return inTx(ctx, pool, tenant, f) })
}

// LeaveTenant gives the rest of an InTenant transaction the rights of the pool's own role again, for what
// belongs to no tenant.
func LeaveTenant(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT forgewire.leave()"); err != nil {
		return fmt.Errorf("leave the tenant: %w", err)
	}
	return nil
}

// query runs one reading statement for one tenant in a single round trip: a connection that is not the tenant's yet
// enters in the same one, and what is sent together is one transaction. Statements without arguments may come first in it.
func query[T any](ctx context.Context, pool *pgxpool.Pool, tenant, sql string, args []any, collect func(pgx.Rows) (T, error), first ...string) (T, error) {
	var zero T
	conn, err := pool.Acquire(forTenant{ctx})
	if err != nil {
		return zero, err //nolint:wrapcheck // the caller says what it read
	}
	defer conn.Release()
	s := sessionOf(conn.Conn())
	in := s.in(tenant)
	if in && len(first) == 0 {
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return zero, err //nolint:wrapcheck // the caller says what it read
		}
		return collect(rows)
	}
	b := &pgx.Batch{}
	if !in {
		b.Queue(s.enter(), tenant)
		s.tear()
	}
	for _, statement := range first {
		b.Queue(statement)
	}
	b.Queue(sql, args...)
	results := conn.SendBatch(ctx, b)
	defer results.Close() // what went wrong was returned by the results
	for range b.Len() - 1 {
		if _, err := results.Exec(); err != nil {
			return zero, fmt.Errorf("enter the tenant: %w", err)
		}
	}
	rows, err := results.Query()
	if err != nil {
		return zero, err //nolint:wrapcheck // the caller says what it read
	}
	found, err := collect(rows)
	if closed := results.Close(); closed == nil && !in {
		s.entered(tenant)
	}
	return found, err
}
