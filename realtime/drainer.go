package realtime

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// How the drainer looks for what was published from SQL.
const (
	lookEvery      = 3 * time.Millisecond  // while awake
	lookBusy       = 15 * time.Millisecond // after a look that found something: larger batches cost everybody less
	lookMany       = 25 * time.Millisecond // after one that found many
	many           = 100                   // messages
	emptyLooks     = 10                    // in a row, then it goes to sleep
	maxDoze        = time.Second           // between looks while an old transaction keeps it from sleeping
	drainRows      = 2000
	drainBytes     = 4 << 20
	lockRetry      = time.Second // another replica drains: it may die
	drainTimeout   = 30 * time.Second
	nothingSeen    = "3:3:" // a snapshot that saw nothing
	advisorySpace  = 1181444979
	advisoryDrain  = 2
	flagAsleep     = 1 // anything but the oid that isAwake names
	drainErrorWait = 2 * time.Second
)

// SQL that reads and sets the flag: it says awake if it is its sequence's own oid.
const (
	isAwake  = "last_value = 'forgewire.awake'::regclass::oid::bigint"
	setAwake = "SELECT setval('forgewire.awake', 'forgewire.awake'::regclass::oid::bigint), pg_notify($1, $2)"
	setSleep = "SELECT setval('forgewire.awake', $1)"
)

// drainer moves what was published from SQL out of the outbox into the log. Every replica has one; an
// advisory lock lets one of them work. Asleep it runs no query: a publish rings the bell. Awake it looks
// every few milliseconds and the bell stays silent, since a NOTIFY makes commits wait for each other.
type drainer struct {
	url    string // must reach the server itself: the lock belongs to the session
	id     string // by which it knows its own bells
	logger *slog.Logger
	rung   chan struct{} // capacity 1: rung since the drainer last began a look
	leave  chan struct{} // capacity 1: the connection is to be given up
	busy   atomic.Bool   // it is not asleep
	// generation is that of the set of logs, 0 where there is one; see Log.
	generation func() int64
	forward    func() // something may wait to be forwarded to another log

	// Owned by run.
	conn   *pgx.Conn
	outbox uint32 // the table's oid: a restored dump has another
	seen   string // the snapshot up to which everything was drained
}

func newDrainer(url string, logger *slog.Logger, generation func() int64, forward func()) *drainer {
	return &drainer{url: url, id: uuid.NewString(), logger: logger, rung: make(chan struct{}, 1), leave: make(chan struct{}, 1), seen: nothingSeen,
		generation: generation, forward: forward}
}

// ring wakes the drainer, unless it is its own bell. It never blocks.
func (d *drainer) ring(from string) {
	if from == d.id {
		return
	}
	select {
	case d.rung <- struct{}{}:
	default:
	}
}

// letGo makes the drainer give up its connection as soon as it sleeps; the next ring brings it back. It never blocks.
func (d *drainer) letGo() {
	select {
	case d.leave <- struct{}{}:
	default:
	}
}

func (d *drainer) run(ctx context.Context) error {
	defer d.disconnect()
	for {
		d.busy.Store(false)
		select {
		case <-d.rung:
		case <-d.leave:
			d.disconnect()
			continue
		case <-ctx.Done():
			return nil
		}
		d.busy.Store(true)
		for {
			err := d.awake(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				break
			}
			d.logger.Warn("moving what was published from SQL to the log failed, trying again", "error", err)
			d.disconnect()
			if !pause(ctx, drainErrorWait) {
				return nil
			}
		}
	}
}

// disconnect also forgets what was seen: whatever went wrong may have taken the database back.
func (d *drainer) disconnect() {
	if d.conn != nil {
		closeConn(d.conn)
		d.conn = nil
	}
	d.seen = nothingSeen
}

// awake returns when the outbox is empty and whoever publishes next will ring, or when another replica
// works or has gone to sleep.
func (d *drainer) awake(ctx context.Context) error {
	defer d.forward() // another replica may have died with something to forward
	if d.conn == nil {
		c, err := connect(ctx, d.url, "forgewire drain")
		if err != nil {
			return err
		}
		d.conn = c
	}
	settled, err := d.takeLock(ctx)
	if err != nil {
		return err
	}
	if err := d.work(ctx, settled); err != nil {
		return err // the session ends, and the lock with it
	}
	return d.query(ctx, func(ctx context.Context) error {
		if _, err := d.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", advisorySpace, advisoryDrain); err != nil {
			return fmt.Errorf("release the drain lock: %w", err)
		}
		return nil
	})
}

// takeLock waits until this replica is the one that drains. It reports whether another one drained in the
// meantime and has cleared the flag, so that all that is left is to make sure that it did not die too early.
func (d *drainer) takeLock(ctx context.Context) (settled bool, err error) {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, lockRetry) {
		var mine, up bool
		var outbox uint32
		err := d.query(ctx, func(ctx context.Context) error {
			return d.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2), "+isAwake+", 'forgewire.outbox'::regclass::oid FROM forgewire.awake",
				advisorySpace, advisoryDrain).Scan(&mine, &up, &outbox)
		})
		if err != nil {
			return false, fmt.Errorf("take the drain lock: %w", err)
		}
		if mine {
			if d.outbox != outbox {
				d.outbox, d.seen = outbox, nothingSeen
			}
			return settled && !up, nil
		}
		// The holder hears our bell too. It may die: then nobody would ring, as the flag says awake.
		settled = true
		if !pause(ctx, wait) {
			return false, ctx.Err()
		}
	}
}

// work drains until it may sleep.
func (d *drainer) work(ctx context.Context, settled bool) error {
	for ; ; settled = false {
		if settled {
			if asleep, err := d.fallAsleep(ctx); asleep || err != nil {
				return err
			}
		}
		// The bell goes to the other drainers: while the flag says awake they wait for the lock, as this one may die.
		if err := d.setFlag(ctx, setAwake, notifyBell, d.id); err != nil {
			return err
		}
		for empty := 0; empty < emptyLooks; empty++ {
			n, err := d.drainAll(ctx)
			if err != nil {
				return err
			}
			wait := lookEvery
			switch {
			case n >= many:
				empty, wait = 0, lookMany
			case n > 0:
				empty, wait = 0, lookBusy
			}
			if !pause(ctx, wait) {
				return ctx.Err()
			}
		}
		asleep, err := d.fallAsleep(ctx)
		if asleep || err != nil {
			return err
		}
	}
}

// fallAsleep clears the flag: from here on every publish rings. Those that read it before hold an xid below
// the horizon; it goes on looking until all of them have ended. A transaction that stays open for an hour
// keeps the looks going, so they become rare. It returns false if there is work again.
func (d *drainer) fallAsleep(ctx context.Context) (bool, error) {
	if err := d.setFlag(ctx, setSleep, flagAsleep); err != nil {
		return false, err
	}
	var horizon, oldest int64
	err := d.query(ctx, func(ctx context.Context) error {
		return d.conn.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&horizon)
	})
	if err != nil {
		return false, fmt.Errorf("read the horizon: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, maxDoze) {
		select { // a bell heard before this look needs no other answer
		case <-d.rung:
		default:
		}
		err := d.query(ctx, func(ctx context.Context) error {
			return d.conn.QueryRow(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").Scan(&oldest)
		})
		if err != nil {
			return false, fmt.Errorf("read the oldest transaction: %w", err)
		}
		n, err := d.drainAll(ctx)
		if err != nil {
			return false, err
		}
		if oldest >= horizon {
			return true, nil
		}
		if n > 0 && wait > lookEvery {
			return false, nil
		}
		select {
		case <-time.After(wait):
		case <-d.rung:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (d *drainer) setFlag(ctx context.Context, sql string, args ...any) error {
	return d.query(ctx, func(ctx context.Context) error {
		if _, err := d.conn.Exec(ctx, sql, args...); err != nil {
			return fmt.Errorf("set the drainer's flag: %w", err)
		}
		return nil
	})
}

// drainAll drains until nothing is left that it can see, and returns how many messages it moved. Each batch is
// one statement: a row leaves the outbox and enters the log in one commit.
func (d *drainer) drainAll(ctx context.Context) (total int, err error) {
	for more := true; more; {
		var at string
		var n, sorted int
		err = d.query(ctx, func(ctx context.Context) error {
			if generation := d.generation(); generation != 0 {
				return d.conn.QueryRow(ctx, "SELECT seen_now::text, more, moved, sorted FROM forgewire.drain_at($1, $2::text::pg_snapshot, $3, $4)",
					generation, d.seen, drainRows, drainBytes).Scan(&at, &more, &n, &sorted)
			}
			return d.conn.QueryRow(ctx, "SELECT seen_now::text, more, moved FROM forgewire.drain($1::text::pg_snapshot, $2, $3)",
				d.seen, drainRows, drainBytes).Scan(&at, &more, &n)
		})
		if err != nil {
			return total, fmt.Errorf("drain the outbox: %w", knowSet(err))
		}
		if sorted > 0 {
			d.forward()
			n += sorted
		}
		if !more { // committed, or there would be an error
			d.seen = at
		}
		total += n
	}
	return total, nil
}

func (d *drainer) query(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	return f(ctx)
}

// pause waits, and returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
