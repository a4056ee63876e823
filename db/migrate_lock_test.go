package db_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// oldVersion is one after which a migration changes a table that it did not make, which takes it for itself alone.
const oldVersion = 13

// A migration that cannot have a table, because a report reads it for long, does not let the application stand still
// behind it: it lets go and tries again, and is done once the report is.
func TestMigrateLocksNothingForLong(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := db.MigrateTo(ctx, url, oldVersion); err != nil {
		t.Fatal(err)
	}
	report := connect(t, url)
	tx, err := report.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = tx.Exec(ctx, "SELECT count(*) FROM forgewire.prompts"); err != nil {
		t.Fatal(err)
	}

	migrated := make(chan error, 1)
	go func() { migrated <- db.Migrate(ctx, url) }()
	var app sync.WaitGroup
	slowest, done := make([]time.Duration, 3), make(chan struct{})
	for i, statement := range []string{
		"SELECT count(*) FROM forgewire.prompts",
		`SELECT forgewire.publish('room:1', '{"during": "a migration"}')`,
		"SELECT forgewire.append('{room:1}', '{1}', '{NULL}', '{}', '{}', '{}')",
	} {
		conn := connect(t, url)
		app.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				begin := time.Now()
				if _, err := conn.Exec(ctx, statement); err != nil {
					t.Errorf("%s: %v", statement, err)
				}
				slowest[i] = max(slowest[i], time.Since(begin))
				select {
				case <-tick.C:
				case <-done:
					return
				}
			}
		})
	}
	waitedTwice(ctx, t, url)
	select {
	case err = <-migrated:
		t.Fatalf("it did not wait for the report: %v", err)
	default:
	}
	if err = tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err = <-migrated; err != nil {
		t.Fatal(err)
	}
	close(done)
	app.Wait()
	t.Logf("the application's slowest statements: %v", slowest)
	for _, took := range slowest {
		if took > 2*time.Second { // half a second, and a busy machine
			t.Errorf("the application stood still for %v", took)
		}
	}
	if err = db.CheckMigrated(ctx, connect(t, url)); err != nil {
		t.Error(err)
	}
}

// waitedTwice waits until two transactions of a migration were seen waiting for a lock: it let go and tried again.
func waitedTwice(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	conn := connect(t, url)
	seen := map[time.Time]bool{}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(seen) < 2 {
		var begun time.Time
		err := conn.QueryRow(ctx, `SELECT xact_start FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%make_tenant_role%' LIMIT 1`).Scan(&begun)
		if err == nil {
			seen[begun] = true
		} else if !errors.Is(err, pgx.ErrNoRows) {
			t.Fatalf("it was seen waiting %d times: %v", len(seen), err)
		}
		<-tick.C
	}
}

// One that is never to be had is told, when its patience ends or its caller's does.
func TestMigrateGivesUp(t *testing.T) {
	t.Parallel()
	url := dbtest.NewEmpty(t)
	if err := db.MigrateTo(t.Context(), url, oldVersion); err != nil {
		t.Fatal(err)
	}
	tx, err := connect(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err = tx.Exec(t.Context(), "LOCK TABLE forgewire.prompts"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	if err = db.Migrate(ctx, url); err == nil {
		t.Error("it migrated a table that somebody else has")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it gave up after %v", took)
	}
}
