package db

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pipelined is a transaction that saves round trips: what has no result worth waiting for, as its BEGIN, is sent with
// the first statement that has one, and what is put off to the end with its COMMIT. It belongs to one goroutine.
type pipelined struct {
	conn    *pgx.Conn
	waiting []*pgx.QueuedQuery // to be sent before whatever comes next
	begun   bool               // something was sent
	ended   bool
}

var errNoSavepoints = errors.New("a transaction of InTx has no savepoints")

// Later runs a statement of a transaction of InTx no later than its commit, which fails with it, and before those that
// follow. In another kind of transaction it runs at once.
func Later(ctx context.Context, tx pgx.Tx, sql string, args ...any) error {
	if p, ok := tx.(*pipelined); ok {
		p.later(sql, args...)
		return nil
	}
	_, err := tx.Exec(ctx, sql, args...)
	return err //nolint:wrapcheck // the caller says what it did
}

func (p *pipelined) later(sql string, args ...any) {
	p.waiting = append(p.waiting, &pgx.QueuedQuery{SQL: sql, Arguments: args})
}

// SendBatch sends what waits before the batch, and gives the results of the batch.
func (p *pipelined) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if len(p.waiting) == 0 {
		return p.conn.SendBatch(ctx, b)
	}
	all := &pgx.Batch{QueuedQueries: append(p.waiting, b.QueuedQueries...)}
	before := len(p.waiting)
	p.waiting, p.begun = nil, true
	results := p.conn.SendBatch(ctx, all)
	for range before {
		if _, err := results.Exec(); err != nil {
			break // the batch's own results have it, too
		}
	}
	return results
}

// flush sends what waits.
func (p *pipelined) flush(ctx context.Context) error {
	if len(p.waiting) == 0 {
		return nil
	}
	return p.SendBatch(ctx, &pgx.Batch{}).Close() //nolint:wrapcheck // the caller says what it did
}

// Exec is pgx.Tx's.
func (p *pipelined) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	if len(p.waiting) == 0 {
		return p.conn.Exec(ctx, sql, args...) //nolint:wrapcheck // as pgx.Tx
	}
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	results := p.SendBatch(ctx, b)
	tag, err = results.Exec()
	if closed := results.Close(); err == nil {
		err = closed
	}
	return tag, err //nolint:wrapcheck // as pgx.Tx
}

// Query is pgx.Tx's.
func (p *pipelined) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if len(p.waiting) == 0 {
		return p.conn.Query(ctx, sql, args...) //nolint:wrapcheck // as pgx.Tx
	}
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	results := p.SendBatch(ctx, b)
	rows, err := results.Query()
	if err != nil {
		_ = results.Close() // it has the same error
		return rows, err    //nolint:wrapcheck // as pgx.Tx
	}
	return &batchRows{Rows: rows, results: results}, nil
}

// QueryRow is pgx.Tx's.
func (p *pipelined) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

// batchRows are the rows of a batch's last statement: the batch ends with them.
type batchRows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error
}

// Close is pgx.Rows'.
func (r *batchRows) Close() {
	r.Rows.Close()
	if err := r.results.Close(); r.err == nil {
		r.err = err
	}
}

// Next is pgx.Rows'.
func (r *batchRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Err is pgx.Rows'.
func (r *batchRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err //nolint:wrapcheck // as pgx.Rows
	}
	return r.err
}

// oneRow is the first of some rows.
type oneRow struct {
	rows pgx.Rows
	err  error
}

// Scan is pgx.Row's.
func (r oneRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err //nolint:wrapcheck // as pgx.Row
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err //nolint:wrapcheck // as pgx.Row
	}
	r.rows.Close()
	return r.rows.Err() //nolint:wrapcheck // as pgx.Row
}

// CopyFrom is pgx.Tx's.
func (p *pipelined) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := p.flush(ctx); err != nil {
		return 0, err
	}
	return p.conn.CopyFrom(ctx, table, columns, rows) //nolint:wrapcheck // as pgx.Tx
}

// Prepare is pgx.Tx's.
func (p *pipelined) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return p.conn.Prepare(ctx, name, sql) //nolint:wrapcheck // as pgx.Tx
}

// Begin is pgx.Tx's, and fails: nobody here needs a savepoint.
func (p *pipelined) Begin(context.Context) (pgx.Tx, error) { return nil, errNoSavepoints }

// LargeObjects is pgx.Tx's. Nobody here has any.
func (p *pipelined) LargeObjects() pgx.LargeObjects { return pgx.LargeObjects{} }

// Conn is pgx.Tx's.
func (p *pipelined) Conn() *pgx.Conn { return p.conn }

// Commit sends what still waits and the COMMIT. A transaction of which nothing was sent, or put off, has nothing to
// commit.
func (p *pipelined) Commit(ctx context.Context) error {
	if p.ended {
		return pgx.ErrTxClosed
	}
	tag, err := p.Exec(ctx, "COMMIT")
	if err != nil {
		return err
	}
	p.ended = true
	if tag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// Rollback is pgx.Tx's. The connection is closed where it fails.
func (p *pipelined) Rollback(ctx context.Context) error {
	if p.ended {
		return pgx.ErrTxClosed
	}
	p.ended, p.waiting = true, nil
	if !p.begun || p.conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	if _, err := p.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return fmt.Errorf("roll back: %w", errors.Join(err, p.conn.Close(ctx)))
	}
	return nil
}
