package db_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
)

func newAccounts(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := newPool(t, db.PoolConfig{MaxConns: 4})
	if _, err := pool.Exec(t.Context(), "CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts VALUES (1, 0), (2, 0)"); err != nil {
		t.Fatal(err)
	}
	return pool
}

func balance(t *testing.T, pool *pgxpool.Pool) (sum int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "SELECT sum(balance) FROM accounts").Scan(&sum); err != nil {
		t.Fatal(err)
	}
	return sum
}

func add(ctx context.Context, tx pgx.Tx, id int) error {
	_, err := tx.Exec(ctx, "UPDATE accounts SET balance = balance + 1 WHERE id = $1", id)
	return err
}

func TestInTx(t *testing.T) {
	t.Parallel()
	pool := newAccounts(t)
	if err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return add(t.Context(), tx, 1) }); err != nil || balance(t, pool) != 1 {
		t.Fatalf("commit: %v, balance %d", err, balance(t, pool))
	}
	own := errors.New("mine")
	err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return errors.Join(add(t.Context(), tx, 1), own) })
	if !errors.Is(err, own) || balance(t, pool) != 1 {
		t.Fatalf("error: %v, balance %d", err, balance(t, pool))
	}
	func() {
		defer func() {
			if recover() != "bug" {
				t.Error("the panic did not come through")
			}
		}()
		_ = db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			_ = add(t.Context(), tx, 1)
			panic("bug")
		})
	}()
	if balance(t, pool) != 1 {
		t.Fatal("a transaction that panicked was committed")
	}
	if s := db.PoolStats(pool); s.InUse != 0 || s.Ended != 0 {
		t.Errorf("connections were lost: %+v", s)
	}
}

// A client that leaves while its statement runs takes the statement along, and the transaction.
func TestInTxClientLeaves(t *testing.T) {
	t.Parallel()
	pool := newAccounts(t)
	ctx, leave := context.WithCancel(t.Context())
	started := make(chan uint32, 1)
	done := make(chan error)
	go func() {
		done <- db.InTx(ctx, pool, func(tx pgx.Tx) error {
			if err := add(ctx, tx, 1); err != nil {
				return err
			}
			started <- tx.Conn().PgConn().PID()
			_, err := tx.Exec(ctx, "SELECT pg_sleep(60)")
			return err
		})
	}()
	pid := <-started
	until(t, "the statement runs", func() bool { // a cancellation that comes before it would be for nothing
		var running bool
		err := pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep')", int64(pid)).Scan(&running)
		return err == nil && running
	})
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	until(t, "the server ended the statement", func() bool {
		var running bool
		err := pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state <> 'idle')", int64(pid)).Scan(&running)
		return err == nil && !running
	})
	if balance(t, pool) != 0 {
		t.Error("it was committed")
	}
	// One that left before the commit has not committed either.
	ctx, leave = context.WithCancel(t.Context())
	err := db.InTx(ctx, pool, func(tx pgx.Tx) error { defer leave(); return add(ctx, tx, 1) })
	if !errors.Is(err, context.Canceled) || balance(t, pool) != 0 {
		t.Errorf("%v, balance %d", err, balance(t, pool))
	}
}

// Two that take the same locks in opposite order both get through.
func TestInTxRetriesDeadlocks(t *testing.T) {
	t.Parallel()
	pool := newAccounts(t)
	var both, wg sync.WaitGroup
	both.Add(2)
	tries := make(chan int, 2)
	for _, order := range [][2]int{{1, 2}, {2, 1}} {
		wg.Go(func() {
			try := 0
			err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				if err := add(t.Context(), tx, order[0]); err != nil {
					return err
				}
				if try++; try == 1 {
					both.Done()
					both.Wait()
				}
				return add(t.Context(), tx, order[1])
			})
			if err != nil {
				t.Error(err)
			}
			tries <- try
		})
	}
	wg.Wait()
	if n := <-tries + <-tries; n < 3 || balance(t, pool) != 4 { // the server may end both, or one of them twice
		t.Errorf("%d tries, balance %d", n, balance(t, pool))
	}
}

func TestInTxGivesUp(t *testing.T) {
	t.Parallel()
	pool := newAccounts(t)
	tries := 0
	err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		tries++
		_, err := tx.Exec(t.Context(), "DO $$ BEGIN RAISE serialization_failure; END $$")
		return err
	})
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "40001" || tries != 4 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

// The server knows the deadline, so that nothing there outlives the caller: in the same round trip as BEGIN.
func TestInTxDeadline(t *testing.T) {
	t.Parallel()
	pool := newAccounts(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var statement, lock, idle int
	err := db.InTx(ctx, pool, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::int,
			extract(epoch FROM current_setting('lock_timeout')::interval)::int,
			extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)::int`).Scan(&statement, &lock, &idle)
	})
	if err != nil || statement < 15 || statement > 20 || lock != statement/2 && lock != (statement+1)/2 || idle != statement {
		t.Errorf("statement %d s, lock %d s, idle %d s, %v", statement, lock, idle, err)
	}
	var left string
	if err = pool.QueryRow(t.Context(), "SELECT current_setting('statement_timeout')").Scan(&left); err != nil || left != "0" {
		t.Errorf("afterwards %s, %v", left, err)
	}
	// A lock that somebody keeps is given up on while there is time to answer.
	err = db.InTx(t.Context(), pool, func(holder pgx.Tx) error {
		if err := add(t.Context(), holder, 1); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := db.InTx(ctx, pool, func(tx pgx.Tx) error { return add(ctx, tx, 1) })
		if !db.Unavailable(err) || ctx.Err() != nil {
			t.Errorf("%v, %v", err, ctx.Err())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
