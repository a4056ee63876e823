package realtime

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"forgewire/db/dbtest"
)

// startDrainers runs n drainers, each with a listener that rings it, as n replicas would, and returns what
// stops them.
func startDrainers(t testing.TB, url string, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	for range n {
		d := newDrainer(url, slog.New(slog.DiscardHandler), func() int64 { return 0 }, func() {})
		g.Go(func() error { return d.run(ctx) })
		g.Go(func() error {
			for ctx.Err() == nil {
				listenForBells(ctx, url, d)
			}
			return nil
		})
	}
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func listenForBells(ctx context.Context, url string, d *drainer) {
	c, err := connect(ctx, url, "test bells")
	if err != nil {
		return
	}
	defer closeConn(c)
	if _, err = c.Exec(ctx, "LISTEN "+notifyBell); err != nil {
		return
	}
	d.ring("") // as the listener does after each connect
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return
		}
		d.ring(n.Payload)
	}
}

// eventually waits for a condition that other processes bring about.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
		pause(context.Background(), 10*time.Millisecond)
	}
}

func one[T any](t testing.TB, q querier, sql string, args ...any) (v T) {
	t.Helper()
	if err := q.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func dial(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(c) })
	return c
}

// Writers at two isolation levels, transactions that stay open, some that roll back, drainers that fall
// asleep often and are killed: every committed row reaches the log once, in its transaction's order.
func TestDrainExactlyOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	startDrainers(t, url, 3)
	admin := dial(t, url)
	var committed, attempts atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(4 * time.Second)
	for w := range 8 {
		c := dial(t, url)
		wg.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				attempts.Add(1)
				if publishTx(t, c, fmt.Sprintf("%d-%d", w, n), rand.IntN(4) == 0) {
					committed.Add(3)
				}
				pause(context.Background(), time.Duration(rand.IntN(300))*time.Millisecond)
			}
		})
	}
	for time.Now().Before(end) {
		pause(context.Background(), time.Duration(300+rand.IntN(500))*time.Millisecond)
		if _, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())", advisoryDrain); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if committed.Load() == 0 || committed.Load() == 3*attempts.Load() {
		t.Fatalf("%d of %d rows were committed", committed.Load(), 3*attempts.Load())
	}
	eventually(t, 10*time.Second, "the outbox is empty", func() bool { return one[int64](t, admin, "SELECT count(*) FROM forgewire.outbox") == 0 })
	if n := one[int64](t, admin, "SELECT count(*) FROM forgewire.messages"); n != committed.Load() {
		t.Errorf("%d messages, want %d", n, committed.Load())
	}
	if n := one[int64](t, admin, "SELECT count(DISTINCT (channel, data)) FROM forgewire.messages"); n != committed.Load() {
		t.Errorf("%d distinct messages, want %d", n, committed.Load())
	}
	if n := one[int64](t, admin, `SELECT count(*) FROM (SELECT data::int <= lag(data::int) OVER (PARTITION BY channel ORDER BY seq) AS bad FROM forgewire.messages) m WHERE bad`); n != 0 {
		t.Errorf("%d messages left their transaction's order", n)
	}
}

// publishTx publishes three messages in a transaction that takes its time, and reports whether it committed.
func publishTx(t testing.TB, c *pgx.Conn, channel string, rollback bool) bool {
	ctx := context.Background()
	iso := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead}[rand.IntN(2)]
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: iso})
	if err != nil {
		t.Error(err)
		return false
	}
	defer tx.Rollback(ctx)
	one[int64](t, tx, "SELECT count(*) FROM forgewire.outbox") // takes the snapshot early
	for i := range 3 {
		pause(context.Background(), time.Duration(rand.IntN(40))*time.Millisecond)
		if _, err = tx.Exec(ctx, "SELECT forgewire.publish($1, to_jsonb($2::int))", channel, i); err != nil {
			t.Error(err)
			return false
		}
	}
	pause(context.Background(), time.Duration(rand.IntN(80))*time.Millisecond)
	if rollback {
		return false
	}
	if err = tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	return err == nil
}

// Once everything is drained no drainer runs a query, until somebody publishes.
func TestDrainerSleeps(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	startDrainers(t, url, 2)
	c := dial(t, url)
	publish := func() {
		if _, err := c.Exec(t.Context(), "SELECT forgewire.publish('room:1', '1')"); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	asleep := func() bool {
		return !one[bool](t, c, "SELECT "+isAwake+" FROM forgewire.awake") &&
			one[int64](t, c, "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND locktype = 'advisory'") == 0 &&
			one[int64](t, c, "SELECT count(*) FROM forgewire.outbox") == 0
	}
	eventually(t, 5*time.Second, "asleep", asleep)
	// The statement of each drainer's session that ran last must stay the last.
	last := func() time.Time {
		return one[time.Time](t, c, "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'forgewire drain' AND datname = current_database()")
	}
	eventually(t, 5*time.Second, "no query for a second", func() bool {
		before := last()
		pause(context.Background(), 1100*time.Millisecond)
		return last().Equal(before)
	})
	publish()
	eventually(t, 5*time.Second, "woken by a bell", func() bool { return one[int64](t, c, "SELECT count(*) FROM forgewire.messages") == 2 })
}

// A transaction that stays open neither delays others nor keeps its own messages from arriving in the end,
// and the drainer's looks become rare meanwhile.
func TestOpenTransactionDelaysNobody(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	startDrainers(t, url, 1)
	c, other := dial(t, url), dial(t, url)
	tx := must(c.Begin(t.Context()))
	if _, err := tx.Exec(t.Context(), "SELECT forgewire.publish('room:1', '\"late\"')"); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		start := time.Now()
		if _, err := other.Exec(t.Context(), "SELECT forgewire.publish('room:2', to_jsonb($1::int))", i); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, "another transaction's message", func() bool {
			return one[int64](t, other, "SELECT count(*) FROM forgewire.messages WHERE channel = 'room:2'") == int64(i+1)
		})
		t.Logf("drained within %v beside an open transaction", time.Since(start))
		pause(context.Background(), time.Duration(50*i)*time.Millisecond)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the late message", func() bool {
		return one[int64](t, other, "SELECT count(*) FROM forgewire.messages WHERE channel = 'room:1'") == 1
	})
}

// Dead rows that somebody's old snapshot keeps are not stepped over by every look.
func TestOldSnapshotDoesNotSlowTheDrain(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	startDrainers(t, url, 1)
	c, dump := dial(t, url), dial(t, url)
	snapshot := must(dump.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}))
	defer snapshot.Rollback(t.Context())
	one[int64](t, snapshot, "SELECT count(*) FROM forgewire.outbox")
	for range 20 {
		if _, err := c.Exec(t.Context(), "SELECT forgewire.publish('room:1', to_jsonb(n)) FROM generate_series(1, 1000) n"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "everything drained", func() bool { return one[int64](t, c, "SELECT count(*) FROM forgewire.outbox") == 0 })
	if _, err := c.Exec(t.Context(), "VACUUM forgewire.outbox"); err != nil {
		t.Fatal(err)
	}
	seen := one[string](t, c, "SELECT pg_current_snapshot()::text")
	plan := explainDrain(t, c, seen)
	if plan > 200 {
		t.Errorf("one look read %d buffers", plan)
	}
	if all := explainDrain(t, c, nothingSeen); all < 5*plan {
		t.Errorf("a look at everything read %d buffers: there were no dead rows, so this test shows nothing", all)
	}
}

// explainDrain returns how many buffers one look reads where there is nothing to take, once the caches of the
// catalog are warm.
func explainDrain(t testing.TB, c *pgx.Conn, seen string) int {
	t.Helper()
	explainDrainOnce(t, c, seen)
	return explainDrainOnce(t, c, seen)
}

func explainDrainOnce(t testing.TB, c *pgx.Conn, seen string) int {
	t.Helper()
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := c.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM forgewire.drain('"+seen+"', 1000, 1000000)").Scan(&plan); err != nil {
		t.Fatal(err)
	}
	return plan[0].Plan.Hit + plan[0].Plan.Read
}
