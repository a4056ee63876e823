package db_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func TestTenReplicasMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err = db.CheckMigrated(ctx, conn); !errors.Is(err, db.ErrNotMigrated) {
		t.Fatalf("before: %v", err)
	}
	var g errgroup.Group
	for range 10 {
		g.Go(func() error { return db.Migrate(ctx, url) })
	}
	if err = g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err = db.CheckMigrated(ctx, conn); err != nil {
		t.Fatalf("after: %v", err)
	}
	var logs int
	if err = conn.QueryRow(ctx, "SELECT count(*) FROM forgewire.log").Scan(&logs); err != nil || logs != 1 {
		t.Fatalf("%d logs, %v", logs, err)
	}
}

// A role that was only allowed to publish can do that, and nothing else.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, dbtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) error { _, err := conn.Exec(ctx, sql); return err }
	if err = exec("CREATE ROLE publisher_test; CREATE ROLE stranger_test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec("RESET ROLE; REVOKE ALL ON SCHEMA forgewire FROM publisher_test; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM publisher_test; DROP ROLE publisher_test, stranger_test")
	})
	if err = exec("SELECT forgewire.allow_publish('publisher_test')"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		role, sql string
		ok        bool
	}{
		{"publisher_test", `SELECT forgewire.publish('room:1', '{"a":1}')`, true},
		{"publisher_test", `SELECT forgewire.append('{a}', '{1}', '{NULL}', '{}', '{}', '{}')`, false},
		{"publisher_test", `SELECT * FROM forgewire.take('3:3:', 1, 1)`, false},
		{"publisher_test", `SELECT forgewire.allow_publish('stranger_test')`, false},
		{"publisher_test", `SELECT * FROM forgewire.messages`, false},
		{"publisher_test", `SELECT forgewire.revoke('joe')`, false},
		{"publisher_test", `SELECT forgewire.authorize('joe', 'a', 'subscribe')`, false},
		{"publisher_test", `SELECT forgewire.ask_authorize('{}', 'joe', 'a', 'subscribe')`, false},
		{"publisher_test", `SELECT * FROM forgewire.revocations`, false},
		{"publisher_test", `INSERT INTO forgewire.outbox (channel, data) VALUES ('a', 'not json')`, false},
		{"publisher_test", `SELECT setval('forgewire.awake', 2)`, false},
		{"stranger_test", `SELECT forgewire.publish('room:1', '1')`, false},
	} {
		if err = exec("SET ROLE " + c.role); err != nil {
			t.Fatal(err)
		}
		if err = exec(c.sql); (err == nil) != c.ok {
			t.Errorf("%s, %s: %v", c.role, c.sql, err)
		}
		if err = exec("RESET ROLE"); err != nil {
			t.Fatal(err)
		}
	}
}

// What SQL may not publish is refused with a message that says why.
func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), dbtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, c := range []struct{ sql, why string }{
		{`SELECT forgewire.publish('', '1')`, "1 to 255 printable ASCII"},
		{`SELECT forgewire.publish(repeat('a', 256), '1')`, "1 to 255 printable ASCII"},
		{`SELECT forgewire.publish(E'a\nb', '1')`, "1 to 255 printable ASCII"},
		{`SELECT forgewire.publish('é', '1')`, "1 to 255 printable ASCII"},
		{`SELECT forgewire.publish('a', to_jsonb(repeat('x', 1048576)))`, "at most 1 MiB"},
		{`SELECT forgewire.publish('a', 'not json')`, "invalid input syntax for type json"},
		{`SELECT forgewire.publish('a', '"\u0000"')`, "unsupported Unicode escape"},
		{`SELECT forgewire.publish('a', NULL)`, "at most 1 MiB"},
	} {
		if _, err := conn.Exec(t.Context(), c.sql); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.sql, err)
		}
	}
}

func TestBadURLIsNotQuoted(t *testing.T) {
	const bad = "postgres://joe:hunter2@[bad/db"
	_, err := db.NewPool(t.Context(), db.PoolConfig{URL: bad})
	for _, err := range []error{err, db.Migrate(t.Context(), bad)} {
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}
