package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
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
//
// BEGIN leaves with the first statement, and what was put off with Later with the COMMIT.
func InTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	return retried(ctx, func() error { return inTx(ctx, pool, "", f) })
}

// retried does again what lost to another transaction.
func retried(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
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

// inTx runs f once, of a tenant unless that is "".
func inTx(ctx context.Context, pool *pgxpool.Pool, tenant string, f func(pgx.Tx) error) (err error) {
	asking := ctx
	if tenant != "" {
		asking = forTenant{ctx}
	}
	conn, err := pool.Acquire(asking)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer conn.Release()
	tx, s := begin(ctx, conn.Conn()), sessionOf(conn.Conn())
	enters := tenant != "" && !s.in(tenant)
	if enters {
		s.tear()
		tx.later(s.enter(), tenant)
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
	if enters {
		s.entered(tenant)
	}
	return nil
}

const limits = `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), set_config('idle_in_transaction_session_timeout', $1, true)`

// begin makes a transaction, of which nothing is sent yet.
func begin(ctx context.Context, conn *pgx.Conn) *pipelined {
	tx := &pipelined{conn: conn}
	tx.later("BEGIN")
	if deadline, ok := ctx.Deadline(); ok {
		left := max(1, time.Until(deadline).Milliseconds())
		tx.later(limits, strconv.FormatInt(left, 10), strconv.FormatInt(max(1, left/2), 10))
	}
	return tx
}

// rollback has a context of its own: the caller's has often ended, and the connection is worth keeping. Where
// it fails the connection is closed, which ends the transaction as well.
func rollback(ctx context.Context, tx *pipelined) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_ = tx.Rollback(ctx) // which closes the connection otherwise; the server notices anyway
}
