package db_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// asleep says how many statements sleep on the server that have this comment.
func asleep(t *testing.T, watch *pgxpool.Pool, comment string) (n int) {
	t.Helper()
	err := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND state = 'active' AND wait_event = 'PgSleep' AND query LIKE '%/* ' || $1 || ' */%'`, comment).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A read is no transaction of InTx, and no statement tells the server of its request's deadline: it is cancelled there when
// the deadline passes or the client leaves. Whose it is makes no difference.
func TestReadEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	watch := newPool(t, db.PoolConfig{URL: url})
	for name, url := range map[string]func(t *testing.T) string{
		"direct":           func(*testing.T) string { return url },
		"behind PgBouncer": func(t *testing.T) string { return startPgBouncer(t, url) },
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, db.PoolConfig{URL: url(t), MaxConns: 2})
			for what, read := range map[string]func(ctx context.Context) error{
				"nobody's": func(ctx context.Context) error {
					_, err := pool.Exec(ctx, "SELECT pg_sleep(60) /* nobody's */")
					return err
				},
				"a tenant's": func(ctx context.Context) error { return db.Sleep(ctx, pool, "acme", "a tenant's") },
				"a tenant's, who is there already": func(ctx context.Context) error {
					if _, err := db.VisibleTenants(ctx, pool, "acme"); err != nil {
						return err
					}
					return db.Sleep(ctx, pool, "acme", "a tenant's, who is there already")
				},
			} {
				ctx, leave := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- read(ctx) }()
				until(t, what+" runs", func() bool { return asleep(t, watch, what) == 1 })
				leave()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("%s, whose client left: %v", what, err)
				}
				until(t, what+" ends with its client", func() bool { return asleep(t, watch, what) == 0 })

				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				if err := read(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s, whose deadline passed: %v", what, err)
				}
				cancel()
				until(t, what+" ends with its deadline", func() bool { return asleep(t, watch, what) == 0 })
			}
		})
	}
}

// A replica that dies cancels nothing: the server finds out by itself that nobody waits for the answer any more.
func TestReadEndsWithItsReplica(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("a server on another system may not be able to look")
	}
	pool := newPool(t, db.PoolConfig{URL: dbtest.New(t)})
	held, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := held.Hijack().PgConn().Hijack()
	if err != nil {
		t.Fatal(err)
	}
	raw.Frontend.Send(&pgproto3.Query{String: "SELECT pg_sleep(60) /* orphan */"})
	if err = raw.Frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs", func() bool { return asleep(t, pool, "orphan") == 1 })
	if err = raw.Conn.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the server ends it", func() bool { return asleep(t, pool, "orphan") == 0 })
}
