package realtime

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// How forwarders work.
const (
	advisoryForward = 64 // and the log's place more
	forwardRows     = 1000
	forwardBytes    = 4 << 20
	forwardTimeout  = 10 * time.Second
	forwardRetry    = 100 * time.Millisecond // after an error, doubled up to drainErrorWait
)

// forwarder brings what was published from SQL in the first log's database to another log that has the channels. Every
// replica has one for each other log; an advisory lock of the first database lets one of them work. Asleep it runs no query.
//
// A message is taken out of the first database after it was committed in the other, so it may be sent twice; but they are
// numbered, and the other log remembers in the transaction that appends them how far they went, so it is appended once.
type forwarder struct {
	from, to *strand
	rung     chan struct{} // capacity 1
	leave    chan struct{} // capacity 1: the connection is to be given up
	busy     atomic.Bool
	sent     atomic.Uint64

	conn *pgx.Conn // owned by run; to the first log's server: the lock belongs to the session
}

func newForwarder(from, to *strand) *forwarder {
	return &forwarder{from: from, to: to, rung: make(chan struct{}, 1), leave: make(chan struct{}, 1)}
}

// ring makes it look for work. It never blocks.
func (f *forwarder) ring() {
	select {
	case f.rung <- struct{}{}:
	default:
	}
}

// letGo makes it give up its connection as soon as it has nothing to do. It never blocks.
func (f *forwarder) letGo() {
	select {
	case f.leave <- struct{}{}:
	default:
	}
}

func (f *forwarder) run(ctx context.Context) error {
	defer f.disconnect()
	for {
		f.busy.Store(false)
		select {
		case <-f.rung:
		case <-f.leave:
			f.disconnect()
			continue
		case <-ctx.Done():
			return nil
		}
		f.busy.Store(true)
		for wait := forwardRetry; ; wait = min(2*wait, drainErrorWait) {
			done, err := f.work(ctx)
			if ctx.Err() != nil {
				return nil // stopped, which is no failure
			}
			if err == nil && done {
				break
			}
			if err != nil {
				f.to.logger.Warn("forwarding what was published from SQL failed, trying again", "error", err)
				f.disconnect()
			} else {
				wait = lockRetry // another replica works: it may die
			}
			if !pause(ctx, wait) {
				return nil
			}
		}
	}
}

func (f *forwarder) disconnect() {
	if f.conn != nil {
		closeConn(f.conn)
		f.conn = nil
	}
}

// work forwards all that waits. It reports false if something does and another replica has the lock.
func (f *forwarder) work(ctx context.Context) (done bool, err error) {
	set := f.from.set.Load()
	if set == nil || set.generation == 0 {
		return true, nil // the set is not known yet: whoever learns it rings
	}
	if f.conn == nil {
		if f.conn, err = connect(ctx, f.from.cfg.ListenURL, "forgewire forward"); err != nil {
			return false, err
		}
	}
	var waits, mine bool
	c, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	err = f.conn.QueryRow(c, `SELECT w.waits, w.waits AND pg_try_advisory_lock($1, $2)
		FROM (SELECT EXISTS (SELECT FROM forgewire.forwards WHERE log = $3) AS waits) w`, advisorySpace, advisoryForward+f.to.place, f.to.place).Scan(&waits, &mine)
	if err != nil {
		return false, fmt.Errorf("take the lock to forward: %w", err)
	}
	if !mine {
		return !waits, nil
	}
	for more := true; more; {
		if more, err = f.batch(ctx, set); err != nil {
			return false, err // the session ends, and the lock with it
		}
	}
	if _, err = f.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", advisorySpace, advisoryForward+f.to.place); err != nil {
		return false, fmt.Errorf("release the lock to forward: %w", err)
	}
	return true, nil
}

// A numbered message is one that is to be forwarded.
type numbered struct {
	Message
	incarnation, number int64
}

// batch forwards what comes next, and reports whether there may be more.
func (f *forwarder) batch(ctx context.Context, set *logSet) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	rows, err := f.conn.Query(ctx, `SELECT incarnation, number, channel, data, coalesce(key, '') FROM (
			SELECT w.*, sum(octet_length(data)) OVER (ORDER BY incarnation, number) - octet_length(data) AS before FROM (
				SELECT * FROM forgewire.forwards WHERE log = $1 ORDER BY incarnation, number LIMIT $2) w) w
		WHERE before < $3 ORDER BY incarnation, number`, f.to.place, forwardRows, forwardBytes)
	if err != nil {
		return false, fmt.Errorf("read what is to be forwarded: %w", err)
	}
	messages, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m numbered, err error) {
		var data string
		err = row.Scan(&m.incarnation, &m.number, &m.Channel, &data, &m.Key)
		m.Data = []byte(data)
		return m, err
	})
	if err != nil {
		return false, fmt.Errorf("read what is to be forwarded: %w", err)
	}
	if len(messages) == 0 {
		return false, nil
	}
	if err = f.takeIn(ctx, set, messages); err != nil {
		return false, fmt.Errorf("forward to log %d: %w", f.to.place, err)
	}
	last := messages[len(messages)-1]
	if _, err = f.conn.Exec(ctx, "DELETE FROM forgewire.forwards WHERE log = $1 AND (incarnation, number) <= ($2, $3)", f.to.place, last.incarnation, last.number); err != nil {
		return false, fmt.Errorf("take out what was forwarded: %w", err)
	}
	return true, nil
}

// takeIn appends messages to the other log, but for those that it has already.
func (f *forwarder) takeIn(ctx context.Context, set *logSet, messages []numbered) error {
	tx, err := f.to.cfg.PublishPool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // it may be committed
	var incarnation, number int64
	// The row is locked until the commit: of two that forward at once, as one was taken for dead, the second sees what the first did.
	err = tx.QueryRow(ctx, `INSERT INTO forgewire.received AS r VALUES ($1, 0, 0) ON CONFLICT (source) DO UPDATE SET source = excluded.source
		RETURNING r.incarnation, r.number`, set.own).Scan(&incarnation, &number)
	if err != nil {
		return fmt.Errorf("see what was received: %w", err)
	}
	var fresh []Message
	for _, m := range messages {
		if m.incarnation > incarnation || m.incarnation == incarnation && m.number > number {
			incarnation, number = m.incarnation, m.number
			fresh = append(fresh, m.Message)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if _, err = tx.Exec(ctx, "UPDATE forgewire.received SET incarnation = $2, number = $3 WHERE source = $1", set.own, incarnation, number); err != nil {
		return fmt.Errorf("note what was received: %w", err)
	}
	if err = appendTo(ctx, tx, set.generation, fresh); err != nil {
		return err
	}
	if err = tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	f.sent.Add(uint64(len(fresh)))
	return nil
}
