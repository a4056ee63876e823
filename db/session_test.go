package db_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/db/dbtest"
)

var errOnPurpose = errors.New("on purpose")

// oneOfEach makes a prompt of each of some tenants.
func oneOfEach(t *testing.T, pool *pgxpool.Pool) (tenants []string) {
	t.Helper()
	for i := range 4 {
		tenant := fmt.Sprintf("tenant%d", i)
		err := db.InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
			_, err := db.CreatePrompt(t.Context(), tx, tenant, "pr_"+tenant, "name", db.PromptVersion{Variables: []string{}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		tenants = append(tenants, tenant)
	}
	return tenants
}

// step does one thing with a connection, which may end in any way, and says what it saw that it should not have.
func step(ctx context.Context, pool *pgxpool.Pool, tenants []string) error {
	tenant := tenants[rand.IntN(len(tenants))]
	see := func(q asker, sql string) ([]string, error) {
		rows, err := q.Query(ctx, sql)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	const all = "SELECT DISTINCT tenant FROM forgewire.prompts ORDER BY 1"
	only := func(what string, got []string, err error, want ...string) error {
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s sees the rows of %v, not of %v", what, got, want)
		}
		return err
	}
	inside := func(f func(pgx.Tx) error) error {
		return db.InTenant(ctx, pool, tenant, func(tx pgx.Tx) error {
			got, err := see(tx, all)
			if err = only("a transaction of "+tenant, got, err, tenant); err != nil {
				return err
			}
			return f(tx)
		})
	}
	switch rand.IntN(8) {
	case 0:
		return inside(func(pgx.Tx) error { return nil })
	case 1: // one that fails, and takes back what it did to the session
		if err := inside(func(pgx.Tx) error { return errOnPurpose }); !errors.Is(err, errOnPurpose) {
			return err
		}
	case 2:
		if err := inside(func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "SELECT 1/0"); return errors.Join(err, errOnPurpose) }); !errors.Is(err, errOnPurpose) {
			return err
		}
	case 3: // one that fails with its commit
		if err := inside(func(tx pgx.Tx) error { return db.Later(ctx, tx, "SELECT 1/0") }); err == nil {
			return errors.New("what was put off did not fail")
		}
	case 4:
		return inside(func(tx pgx.Tx) error {
			if err := db.LeaveTenant(ctx, tx); err != nil {
				return err
			}
			got, err := see(tx, all)
			return only("who left", got, err, tenants...)
		})
	case 5: // nobody's
		got, err := see(pool, all)
		return only("nobody", got, err, tenants...)
	default:
		got, err := db.VisibleTenants(ctx, pool, tenant)
		return only("a read of "+tenant, got, err, tenant)
	}
	return nil
}

// Whatever happens on a connection, whoever gets it next is in his own tenant, or in none; also behind a pooler, which
// gives each transaction another session.
func TestConnectionsAreTheirTenants(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	tenants := oneOfEach(t, newPool(t, db.PoolConfig{URL: url}))
	for name, url := range map[string]func(t *testing.T) string{
		"direct":           func(*testing.T) string { return url },
		"behind PgBouncer": func(t *testing.T) string { return startPgBouncer(t, url) },
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, db.PoolConfig{URL: url(t), MaxConns: 2})
			var g errgroup.Group
			for range 4 {
				g.Go(func() error {
					for range 150 {
						if err := step(t.Context(), pool, tenants); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// counter counts what was sent.
type counter struct{ queries, batches int }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.queries++
	return ctx
}
func (*counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.batches++
	return ctx
}
func (*counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A connection that is its tenant's already reads in one statement, and a prompt is made in two round trips.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	var sent counter
	pool := newPool(t, db.PoolConfig{URL: dbtest.New(t), MaxConns: 1, Tracer: &sent})
	tenants := oneOfEach(t, pool)
	for _, c := range []struct {
		what string
		do   func() error
		want counter
	}{
		{"a read of another tenant", func() error { _, err := db.VisibleTenants(t.Context(), pool, tenants[0]); return err }, counter{0, 1}},
		{"another one of the same", func() error { _, err := db.VisibleTenants(t.Context(), pool, tenants[0]); return err }, counter{1, 0}},
		{"a prompt", func() error {
			return db.InTenant(t.Context(), pool, tenants[0], func(tx pgx.Tx) error {
				_, err := db.CreatePrompt(t.Context(), tx, tenants[0], "pr_x", "x", db.PromptVersion{Variables: []string{}})
				if err == nil {
					err = db.Tell(t.Context(), tx, "$prompts:x", []byte(`{}`))
				}
				return err
			})
		}, counter{0, 2}},
	} {
		sent = counter{}
		if err := c.do(); err != nil || sent != c.want {
			t.Errorf("%s: %+v were sent, not %+v; %v", c.what, sent, c.want, err)
		}
	}
}
