package realtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"forgewire/db"
)

// How the set of logs is changed.
const (
	advisoryLogSet = 3
	setLockTimeout = 500 * time.Millisecond // under a second: then Postgres looks for deadlocks, and we should be the one that gives way
	setLockWait    = 300 * time.Millisecond
	setLockTries   = 40
)

// LogSet says over which logs channels are spread.
type LogSet struct {
	Generation int64    // 0: there is one log, and no other was ever recorded
	Epochs     []string // of the logs, in their order
}

// ReadLogs returns the set that the first log's database has recorded.
func ReadLogs(ctx context.Context, url string) (LogSet, error) {
	conn, err := connect(ctx, url, "forgewire logs")
	if err != nil {
		return LogSet{}, err
	}
	defer closeConn(conn)
	if err = db.CheckMigrated(ctx, conn); err != nil {
		return LogSet{}, err
	}
	s, err := readLogSet(ctx, conn)
	return LogSet{Generation: s.generation, Epochs: s.epochs}, err
}

// SetLogs makes the databases of these URLs the logs over which channels are spread, the first as the one where everything
// else lives. All of them must answer. The list must begin with the recorded one: a log cannot be taken out, so a channel
// never comes back to one that knows an old position of it. But with replace, a database that is new to the set may stand in
// the place of one that is lost.
//
// Replicas that have another list stop serving at once and those that have this one begin, so what moves is never in two
// logs. What was published from SQL and has not reached its log is sent on its new way. The channels that move are those
// which the new logs get, and these begin new epochs: whoever recovers there is told that he cannot. Interrupted, it is to be
// run again: some logs refuse every publish until then.
func SetLogs(ctx context.Context, urls []string, replace bool) (LogSet, error) {
	return setLogs(ctx, urls, replace, false)
}

// BeginLogs is SetLogs for what was never used: it does nothing if a set is recorded, or if anything was published.
func BeginLogs(ctx context.Context, urls []string) (LogSet, error) {
	return setLogs(ctx, urls, false, true)
}

func setLogs(ctx context.Context, urls []string, replace, fresh bool) (LogSet, error) {
	c := &setChange{}
	defer c.close()
	for i, url := range urls {
		if err := c.open(ctx, url); err != nil {
			return LogSet{}, fmt.Errorf("log %d: %w", i, err)
		}
	}
	first := c.conns[0]
	if _, err := first.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", advisorySpace, advisoryLogSet); err != nil {
		return LogSet{}, fmt.Errorf("take the lock of the set of logs: %w", err)
	}
	was, err := readLogSet(ctx, first)
	if err != nil {
		return LogSet{}, err
	}
	if fresh {
		var used bool
		if err = first.QueryRow(ctx, "SELECT EXISTS (SELECT FROM forgewire.messages) OR EXISTS (SELECT FROM forgewire.outbox)").Scan(&used); err != nil {
			return LogSet{}, fmt.Errorf("see whether the log is used: %w", err)
		}
		if used || was.generation != 0 || len(urls) == 1 {
			return LogSet{Generation: was.generation, Epochs: was.epochs}, nil
		}
	}
	set, err := c.plan(&was, replace)
	if err != nil {
		return LogSet{}, err
	}
	return set, c.carryOut(ctx, &was, set)
}

// setChange is one change under way.
type setChange struct {
	conns []*pgx.Conn // of the new logs, in their order
	sets  []logSet
}

func (c *setChange) open(ctx context.Context, url string) error {
	conn, err := connect(ctx, url, "forgewire logs")
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	if err = db.CheckMigrated(ctx, conn); err != nil {
		return err
	}
	s, err := readLogSet(ctx, conn)
	c.sets = append(c.sets, s)
	return err
}

func (c *setChange) close() {
	for _, conn := range c.conns {
		closeConn(conn)
	}
}

// plan says what the new set is.
func (c *setChange) plan(was *logSet, replace bool) (LogSet, error) {
	set := LogSet{Generation: was.generation}
	if len(c.sets) < len(was.epochs) {
		return set, fmt.Errorf("the set has %d logs, the list %d: a log cannot be taken out, as its messages would be lost", len(was.epochs), len(c.sets))
	}
	for i, s := range c.sets {
		known := slices.Index(was.epochs, s.own)
		switch {
		case slices.ContainsFunc(c.sets[:i], func(o logSet) bool { return o.own == s.own }):
			return set, fmt.Errorf("log %d is a database that the list has already, or a copy of it", i)
		case s.generation > 0 && s.place != 0 && s.epochs[0] != was.own:
			return set, fmt.Errorf("log %d belongs to the set of another database", i)
		case known >= 0 && known != i:
			return set, fmt.Errorf("log %d is number %d of the set: the order counts, and new logs come last", i, known)
		case known < 0 && i < len(was.epochs) && !replace:
			return set, fmt.Errorf("log %d is not the database that the set has there: if that is lost for good, say --replace", i)
		case known < 0:
			s.own = strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
		}
		set.Generation = max(set.Generation, s.generation)
		set.Epochs = append(set.Epochs, s.own)
	}
	set.Generation++
	return set, nil
}

// carryOut changes the logs: first those behind the first, each of which refuses all that the replicas of before append from
// there on; then the first, whose commit is what the replicas hear.
func (c *setChange) carryOut(ctx context.Context, was *logSet, set LogSet) error {
	accepted := map[int]watermark{} // by place in the set of before
	for i := len(c.conns) - 1; i > 0; i-- {
		if err := c.locked(ctx, c.conns[i], func(tx pgx.Tx) error { return join(ctx, tx, i, set) }); err != nil {
			return fmt.Errorf("log %d: %w", i, err)
		}
		if at := slices.Index(was.epochs, c.sets[i].own); at > 0 {
			r, err := readReceived(ctx, c.conns[i], was.own)
			if err != nil {
				return fmt.Errorf("log %d: %w", i, err)
			}
			accepted[at] = r
		}
	}
	return c.locked(ctx, c.conns[0], func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE forgewire.outbox, forgewire.forwarding, forgewire.forwards IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return fmt.Errorf("lock what waits: %w", err)
		}
		for place, r := range accepted {
			if _, err := tx.Exec(ctx, "DELETE FROM forgewire.forwards WHERE log = $1 AND (incarnation, number) <= ($2, $3)", place, r.incarnation, r.number); err != nil {
				return fmt.Errorf("take out what was forwarded: %w", err)
			}
		}
		if err := join(ctx, tx, 0, set); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT forgewire.reroute($1)", len(set.Epochs)); err != nil {
			return fmt.Errorf("send what waits on its new way: %w", err)
		}
		return tellIn(ctx, tx, control{Op: opLogs})
	})
}

func join(ctx context.Context, tx pgx.Tx, place int, set LogSet) error {
	if _, err := tx.Exec(ctx, "SELECT forgewire.join_logs($1, $2, $3)", set.Generation, place, set.Epochs); err != nil {
		return fmt.Errorf("join the set: %w", err)
	}
	return nil
}

// watermark is how far the first log's forwards were taken in.
type watermark struct{ incarnation, number int64 }

func readReceived(ctx context.Context, q querier, source string) (r watermark, err error) {
	err = q.QueryRow(ctx, "SELECT incarnation, number FROM forgewire.received WHERE source = $1", source).Scan(&r.incarnation, &r.number)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return r, fmt.Errorf("see what was received: %w", err)
	}
	return r, nil
}

// locked runs f in a transaction, and again where it does not get its locks in time: whoever publishes from SQL waits
// behind it, so it must not wait for long for a transaction that has published and stays open.
func (c *setChange) locked(ctx context.Context, conn *pgx.Conn, f func(tx pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', $1, true)", fmt.Sprint(setLockTimeout.Milliseconds())); err != nil {
				return fmt.Errorf("bound the wait for locks: %w", err)
			}
			return f(tx)
		})
		pg := (*pgconn.PgError)(nil)
		busy := errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01") // lock_not_available, deadlock_detected
		if !busy {
			return err //nolint:wrapcheck // f said what was attempted
		}
		if try == setLockTries {
			return fmt.Errorf("a transaction that has published from SQL stays open, and the set cannot be changed meanwhile: %w", err)
		}
		if !pause(ctx, setLockWait) {
			return ctx.Err()
		}
	}
}
