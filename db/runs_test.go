package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/db/dbtest"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func partitions(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'forgewire.runs'::regclass ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Runs find their day, whatever the replica's clock says, while other replicas make the same partitions; a batch
// that is written twice is there once.
func TestRunsFindTheirDay(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	now := time.Now()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				return err
			}
			defer conn.Close(t.Context())
			var batch []db.Run
			for j, at := range []time.Time{now, now.Add(-23 * time.Hour), now.AddDate(1, 0, 0), now.AddDate(-30, 0, 0)} {
				batch = append(batch, db.Run{ID: fmt.Sprintf("run_%d_%d", i, j), Tenant: "a", Started: at})
			}
			return errors.Join(db.InsertRuns(t.Context(), conn, batch), db.InsertRuns(t.Context(), conn, batch[:2]))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	runs, err := db.ListRuns(t.Context(), newPool(t, db.PoolConfig{URL: url}), db.RunFilter{Tenant: "a", Limit: 100})
	if err != nil || len(runs) != 32 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	for _, r := range runs {
		if r.Started.After(time.Now().Add(time.Second)) || r.Started.Before(now.Add(-25*time.Hour)) {
			t.Errorf("%s began at %v", r.ID, r.Started)
		}
	}
	if p := partitions(t, conn); len(p) != 4 {
		t.Errorf("%v", p)
	}
}

// A page of a tenant that has nearly all runs is read in their order, however often pages were read on that connection:
// none of the plans is for tenants in general.
func TestAPageOfRunsIsPlannedForItsTenant(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	conn := connect(t, url)
	_, err := conn.Exec(t.Context(), `SELECT forgewire.make_run_partitions(); INSERT INTO forgewire.runs (id, started, tenant, answer_id, key_id, endpoint, model, upstream, status, cache, request_hash,
			prompt_tokens, completion_tokens, saved_micros, duration, error)
		SELECT 'run_' || i, now() - i * interval '1 ms', CASE WHEN i % 10 = 0 THEN 'small_' || i ELSE 'large' END, '', '', '', '', '', 200, 'miss', '', 0, 0, 0, '1 s', ''
		FROM generate_series(1, 5000) AS i; ANALYZE forgewire.runs`)
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t, db.PoolConfig{URL: url, MaxConns: 1})
	for i := range 20 { // the server thinks of a common plan after five
		tenant := []string{"large", "small_10"}[i/10]
		if page, err := db.ListRuns(t.Context(), pool, db.RunFilter{Tenant: tenant, Limit: 100}); err != nil || len(page) != []int{100, 1}[i/10] {
			t.Fatalf("%d runs, %v", len(page), err)
		}
	}
	var common, own int
	if err := pool.QueryRow(t.Context(), `SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE 'SELECT id, started%'`).Scan(&common, &own); err != nil {
		t.Fatal(err)
	}
	if common != 0 || own != 20 {
		t.Errorf("%d common plans, %d own ones", common, own)
	}
}

func TestRetireRuns(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	conn := connect(t, url)
	if err := db.InsertRuns(t.Context(), conn, []db.Run{{ID: "run_a", Tenant: "a", Started: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	before := partitions(t, conn)
	day := time.Now().UTC().Truncate(24 * time.Hour)
	if err := db.RetireRuns(t.Context(), conn, day.Add(-time.Second), time.Time{}); err != nil { // part of yesterday is to be kept
		t.Fatal(err)
	}
	if got := partitions(t, conn); fmt.Sprint(got) != fmt.Sprint(before[1:]) || got[0] != "runs_"+day.AddDate(0, 0, -1).Format("20060102") {
		t.Errorf("%v of %v", got, before)
	}
	// A reader is not waited for, and makes nobody wait: the day goes the next time.
	reader := connect(t, url)
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = tx.Exec(t.Context(), "SELECT FROM forgewire.runs WHERE tenant = 'a' LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	if err = db.RetireRuns(t.Context(), conn, day, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := partitions(t, conn); len(got) != 3 {
		t.Errorf("dropped under a reader: %v", got)
	}
	if err = tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err = db.RetireRuns(t.Context(), conn, day, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := partitions(t, conn); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if _, err = db.RunByID(t.Context(), newPool(t, db.PoolConfig{URL: url}), "a", "run_a"); err != nil {
		t.Errorf("today's run: %v", err)
	}
}

// What was asked and answered is the tenant's alone, is written once, and goes by itself.
func TestRunBodies(t *testing.T) {
	t.Parallel()
	conn := newPool(t, db.PoolConfig{URL: dbtest.New(t)})
	run := db.Run{ID: "run_b", Tenant: "a", Started: time.Now(), Bodies: &db.RunBodies{Request: []byte("{}"), Answer: []byte("\x00\xff"), Cut: true}}
	for range 2 {
		if err := db.InsertRuns(t.Context(), conn, []db.Run{run, {ID: "run_c", Tenant: "a", Started: time.Now()}}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := db.BodiesOf(t.Context(), conn, "a", "run_b")
	if err != nil || string(b.Request) != "{}" || string(b.Answer) != "\x00\xff" || !b.Cut {
		t.Errorf("%v %+v", err, b)
	}
	for _, whose := range [][2]string{{"b", "run_b"}, {"a", "run_c"}} {
		if _, err = db.BodiesOf(t.Context(), conn, whose[0], whose[1]); !errors.Is(err, db.ErrNotFound) {
			t.Errorf("%v: %v", whose, err)
		}
	}
	if err = db.RetireRuns(t.Context(), conn, time.Time{}, time.Now().Add(72*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err = db.BodiesOf(t.Context(), conn, "a", "run_b"); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("after its time: %v", err)
	}
	if _, err = db.RunByID(t.Context(), conn, "a", "run_b"); err != nil {
		t.Errorf("the run itself: %v", err)
	}
	// The days are made anew where a run needs one.
	if err = db.InsertRuns(t.Context(), conn, []db.Run{{ID: "run_d", Tenant: "a", Started: time.Now(), Bodies: run.Bodies}}); err != nil {
		t.Error(err)
	}
}

// A page is read from the tenant's index in the list's order: nothing is sorted, and no more is read than shown.
func TestPageOfRunsUsesTheIndex(t *testing.T) {
	t.Parallel()
	conn := connect(t, dbtest.New(t))
	var batch []db.Run
	for i := range 3000 {
		batch = append(batch, db.Run{ID: fmt.Sprintf("run_%d", i), Tenant: fmt.Sprint(i % 3), Started: time.Now().Add(-time.Duration(i) * 20 * time.Second)})
	}
	if err := db.InsertRuns(t.Context(), conn, batch); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "ANALYZE forgewire.runs"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "BEGIN; SELECT forgewire.enter('1')"); err != nil { // whose policy is in the plan, too
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), `EXPLAIN SELECT * FROM forgewire.runs WHERE tenant = $1 AND started <= $2
		AND (started, id) < ($2, $3) ORDER BY started DESC, id DESC LIMIT 21`, "1", time.Now(), "run_5")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	if strings.Contains(plan, "Sort") || !strings.Contains(plan, "InitPlan") || !strings.Contains(plan, "tenant_started") {
		t.Errorf("%s", plan)
	}
}

// The tables of keys, usage and runs are nobody's but the owner's.
func TestKeysAndRunsArePrivate(t *testing.T) {
	t.Parallel()
	conn := connect(t, dbtest.New(t))
	if _, err := conn.Exec(t.Context(), "CREATE ROLE keys_stranger; GRANT USAGE ON SCHEMA forgewire TO keys_stranger; SET ROLE keys_stranger"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = conn.Exec(context.Background(), "RESET ROLE; REVOKE ALL ON SCHEMA forgewire FROM keys_stranger; DROP ROLE keys_stranger")
	})
	for _, sql := range []string{"SELECT * FROM forgewire.keys", "SELECT * FROM forgewire.runs", "SELECT * FROM forgewire.usage",
		"SELECT forgewire.revoke_key('a')", "SELECT forgewire.announce('keys', '')", "SELECT forgewire.retire_runs(now())",
		"INSERT INTO forgewire.keys (id, hash, tenant) VALUES ('aaaaaaaaaaaaaaaa', sha256('a'), 'a')"} {
		if _, err := conn.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
