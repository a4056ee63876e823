package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	txTries      = 4 // of a transaction that the server gave up for another's sake
	retryWait    = 5 * time.Millisecond
	rollbackTime = time.Second
)

// InTx runs f in a transaction: it commits when f returns nil, and rolls back when f returns an error, panics,
// or ctx ends. The server gives up with ctx's deadline too: until half of the time is over it waits for locks,
// and no statement, and no pause between statements, may outlast it.
//
// A transaction that lost to another (a serialisation failure, a deadlock) is run again, a few times: f must
// have no effect but on tx, and must return the errors that it gets, wrapped or not.
func InTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := inTx(ctx, pool, f)
		if err == nil || try == txTries || !lost(err) {
			return err
		}
		// Whoever collided must not do so again in step.
		t := time.NewTimer(time.Duration(float64(retryWait) * float64(int(1)<<try) * (0.5 + rand.Float64())))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// lost says whether the server ended a transaction in favour of another one.
func lost(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}

func inTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) (err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin(ctx)})
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	committed := false
	defer func() {
		if !committed { // also when f panics
			rollback(ctx, tx)
		}
	}()
	if err = f(tx); err != nil {
		return err
	}
	if err = tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	return nil
}

// begin is one round trip: without arguments pgx sends several statements at once.
func begin(ctx context.Context) string {
	deadline, ok := ctx.Deadline()
	if !ok {
		return "BEGIN"
	}
	left := max(1, time.Until(deadline).Milliseconds())
	return fmt.Sprintf("BEGIN; SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		left, max(1, left/2), left)
}

// rollback has a context of its own: the caller's has often ended, and the connection is worth keeping. Where
// it fails the connection is closed, which ends the transaction as well.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		_ = tx.Conn().Close(ctx) // it says goodbye if it can; the server notices anyway
	}
}
