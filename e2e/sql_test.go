package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func begin(t testing.TB, c *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // it may have ended
	return tx
}

func commit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// publishIn publishes inside a transaction, of which the ledger learns when it has ended.
func publishIn(t testing.TB, tx pgx.Tx, book *ledger, channel string) (id string) {
	t.Helper()
	id = book.id("sql")
	if _, err := tx.Exec(t.Context(), "SELECT forgewire.publish($1, jsonb_build_object('id', $2::text))", channel, id); err != nil {
		t.Fatal(err)
	}
	return id
}

// What is rolled back was never published, also up to a savepoint; what is committed comes in its order.
func TestSQLRollbackAndOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(1, "room:1")
	conn := dial(t, c.url)

	tx := begin(t, conn)
	publishIn(t, tx, book, "room:1") // nobody must see it
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx = begin(t, conn)
	var want []string
	for i := range 50 {
		if i == 25 {
			inner := begin2(t, tx)
			publishIn(t, inner, book, "room:1") // nor this
			if err := inner.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			inner = begin2(t, tx)
			want = append(want, publishIn(t, inner, book, "room:1"))
			commit(t, inner)
		}
		want = append(want, publishIn(t, tx, book, "room:1"))
	}
	commit(t, tx)
	for _, id := range want {
		book.note("room:1", id, 0, nil, 0)
	}
	c.settle(book, s)
	var got []string
	for _, m := range s.messages("room:1")[:len(want)] {
		got = append(got, m.id)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %q, not %q", got, want)
	}
}

func begin2(t testing.TB, tx pgx.Tx) pgx.Tx {
	t.Helper()
	inner, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inner
}

// A transaction that stays open after it has published delays nobody: neither SQL nor HTTP, neither writers
// nor readers of the same channel.
func TestSQLOpenTransaction(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	patient := begin(t, dial(t, c.url))
	late := publishIn(t, patient, book, "room:1")

	conn := dial(t, c.url)
	for end := time.Now().Add(lasting(10*time.Second, time.Minute)); time.Now().Before(end); {
		for _, publish := range []func() (string, error){
			func() (string, error) { return book.insert(t.Context(), conn, "room:1") },
			func() (string, error) { id, _, err := book.post(c.replicas[1], "room:1"); return id, err },
		} {
			start := time.Now()
			id, err := publish()
			if err != nil {
				t.Fatal(err)
			}
			s.waitFor("room:1", id, 5*time.Second)
			if took := time.Since(start); took > 2*time.Second { // milliseconds, on a machine that does nothing else
				t.Errorf("%s took %v", id, took)
			}
		}
		during(t, 700*time.Millisecond) // the drainer falls asleep in between
	}
	if s.saying("room:1", late) {
		t.Error("it was seen before it was committed")
	}
	commit(t, patient)
	book.note("room:1", late, 0, nil, 0)
	s.waitFor("room:1", late, 5*time.Second)
	c.settle(book, s)
}

// Two transactions publish to two channels in opposite order: neither waits for the other.
func TestSQLOppositeOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1", "room:2")
	for _, level := range []string{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"} {
		first, second := begin(t, dial(t, c.url)), begin(t, dial(t, c.url))
		for _, tx := range []pgx.Tx{first, second} {
			if _, err := tx.Exec(t.Context(), "SET TRANSACTION ISOLATION LEVEL "+level+"; SET LOCAL lock_timeout = '2s'"); err != nil {
				t.Fatal(err)
			}
		}
		ids := map[string]string{}
		ids[publishIn(t, first, book, "room:1")] = "room:1"
		ids[publishIn(t, second, book, "room:2")] = "room:2"
		ids[publishIn(t, first, book, "room:2")] = "room:2"
		ids[publishIn(t, second, book, "room:1")] = "room:1"
		commit(t, first)
		commit(t, second)
		for id, channel := range ids {
			book.note(channel, id, 0, nil, 0)
		}
	}
	c.settle(book, s)
}

// Many writers that begin and stop, so that the drainer falls asleep and wakes all the time, on two replicas.
func TestSQLManyWriters(t *testing.T) {
	heavy(t)
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	var writers sync.WaitGroup
	for w := range 8 {
		conn := dial(t, c.url)
		writers.Go(func() {
			for i := range 60 {
				if _, err := book.insert(t.Context(), conn, "room:1"); err != nil {
					t.Error(err)
					return
				}
				if i%10 == w {
					during(t, time.Duration(20+7*w)*time.Millisecond) // about as long as the drainer stays awake
				}
			}
		})
	}
	writers.Wait()
	c.settle(book, s)
}

// A system in which nothing happens runs no query, apart from the listener's ping, which is an empty one.
func TestSQLIdle(t *testing.T) {
	t.Parallel()
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	_, err := book.insert(t.Context(), dial(t, c.url), "room:1")
	if err != nil {
		t.Fatal(err)
	}
	c.settle(book, s)
	elsewhere := dial(t, server.URL())
	type backend struct {
		PID   int
		Name  string
		Since time.Time
		Query string
	}
	look := func() map[int]backend {
		rows, err := elsewhere.Query(t.Context(), `SELECT pid, application_name, coalesce(query_start, backend_start), query
			FROM pg_stat_activity WHERE datname <> current_database() AND application_name LIKE 'forgewire%'`)
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[backend])
		if err != nil {
			t.Fatal(err)
		}
		m := map[int]backend{}
		for _, b := range all {
			m[b.PID] = b
		}
		return m
	}
	s.away() // a replica with clients renews a lease
	until(t, 20*time.Second, "the lease ending", func() string {
		if n := query[int](t, c.url, "SELECT count(*) FROM forgewire.replicas"); n > 0 {
			return fmt.Sprintf("there are %d", n)
		}
		return ""
	})
	// The drainers stay awake for a moment after the last message.
	during(t, 4*time.Second)
	before := look()
	during(t, 7*time.Second)
	after := look()
	if len(before) < 4 {
		t.Fatalf("only %v", before)
	}
	for pid, b := range after {
		empty := b.Query == "" || b.Query == ";" || b.Query == "-- ping"
		if then, there := before[pid]; !there || !then.Since.Equal(b.Since) && !(empty && b.Name == "forgewire listen") {
			t.Errorf("%s ran %q", b.Name, b.Query)
		}
	}
}

// Somebody's old snapshot, as pg_dump holds one for an hour, keeps vacuum from removing anything. The drain
// must not become slower with what was drained meanwhile.
func TestSQLOldSnapshot(t *testing.T) {
	heavy(t)
	c := newCluster(t, 1, options{})
	snapshot := begin(t, dial(t, c.url))
	if _, err := snapshot.Exec(t.Context(), "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT count(*) FROM forgewire.outbox"); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, c.url)
	const chunk, chunks = 4000, 10
	published := 0
	var took []time.Duration
	for range chunks {
		start := time.Now()
		if _, err := conn.Exec(t.Context(), "SELECT forgewire.publish('room:1', to_jsonb(n)) FROM generate_series(1, $1) AS n", chunk); err != nil {
			t.Fatal(err)
		}
		published += chunk
		until(t, 30*time.Second, "the log having them", func() string {
			var n int
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM forgewire.messages").Scan(&n); err != nil || n < published {
				return fmt.Sprint(n, err)
			}
			return ""
		})
		took = append(took, time.Since(start))
	}
	t.Logf("%v for each %d", took, chunk)
	early, late := slices.Min(took[:4]), slices.Min(took[chunks-4:])
	if late > 4*early+300*time.Millisecond {
		t.Errorf("at first %v, in the end %v", early, late)
	}
	// And a single one is still quick.
	id := "single"
	start := time.Now()
	if _, err := conn.Exec(t.Context(), "SELECT forgewire.publish('room:2', jsonb_build_object('id', $1::text))", id); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "the single one", func() string {
		if query[int](t, c.url, "SELECT count(*) FROM forgewire.messages WHERE channel = 'room:2'") == 0 {
			return "not there"
		}
		return ""
	})
	t.Logf("a single one took %v", time.Since(start))
}

// An application's role that was allowed to publish may do that and nothing else.
func TestSQLPrivileges(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	database := newDatabase(t, server)
	c := newCluster(t, 1, options{url: database})
	execute(t, database, "DROP ROLE IF EXISTS e2e_app; CREATE ROLE e2e_app; DROP ROLE IF EXISTS e2e_other; CREATE ROLE e2e_other")
	t.Cleanup(func() {
		execute(t, database, "DROP OWNED BY e2e_app, e2e_other; DROP ROLE e2e_app; DROP ROLE e2e_other")
	})
	execute(t, database, "SELECT forgewire.allow_publish('e2e_app')")
	book := newLedger()
	s := c.subscribe(0, "room:1")
	conn := dial(t, database)
	as := func(role string) {
		if _, err := conn.Exec(t.Context(), "RESET ROLE; SET ROLE "+role); err != nil {
			t.Fatal(err)
		}
	}
	as("e2e_app")
	id, err := book.insert(t.Context(), conn, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	s.waitFor("room:1", id, 10*time.Second)
	statements := []string{
		"SELECT * FROM forgewire.messages", "SELECT * FROM forgewire.outbox", "SELECT * FROM forgewire.log", "SELECT * FROM forgewire.head",
		"INSERT INTO forgewire.outbox (channel, data) VALUES ('room:1', '1')", "DELETE FROM forgewire.outbox",
		"INSERT INTO forgewire.messages VALUES (1, 'room:1', '1', NULL, now())", "UPDATE forgewire.log SET retired = 0",
		"SELECT setval('forgewire.head', 1)", "SELECT setval('forgewire.awake', 2)", "SELECT nextval('forgewire.awake')", "SELECT * FROM forgewire.vouched",
		"SELECT forgewire.append('{room:1}', '{1}', '{NULL}', '{}', '{}', '{}')", "SELECT forgewire.drain('3:3:', 1, 1)",
		"SELECT forgewire.rotate(now(), 1)", "SELECT forgewire.retire(now(), 1)", "SELECT forgewire.begin_incarnation()",
		"SELECT forgewire.make_partition(1)", "SELECT forgewire.allow_publish('e2e_other')", "CREATE TABLE forgewire.mine ()",
		"TRUNCATE forgewire.incarnations", "DROP FUNCTION forgewire.publish",
	}
	refused := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		var e *pgconn.PgError
		if !errors.As(err, &e) || e.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, sql := range statements {
		refused(sql)
	}
	as("e2e_other")
	refused("SELECT forgewire.publish('room:1', '1')")

	// What the API refuses, SQL refuses too, in the publisher's own transaction.
	as("e2e_app")
	for _, sql := range []string{
		"SELECT forgewire.publish('', '1')", "SELECT forgewire.publish(repeat('x', 256), '1')", "SELECT forgewire.publish(E'a\\nb', '1')",
		"SELECT forgewire.publish('é', '1')", "SELECT forgewire.publish(NULL, '1')", "SELECT forgewire.publish('room:1', NULL)",
		"SELECT forgewire.publish('room:1', to_jsonb(repeat('x', 1100000)))", "SELECT forgewire.publish('room:1', 'no JSON')",
		`SELECT forgewire.publish('room:1', '"\u0000"')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s was taken", sql)
		}
	}
	c.settle(book, s)
}
