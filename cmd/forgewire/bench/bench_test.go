package bench

import (
	"bytes"
	"context"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"forgewire/infra/devstack"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// The smoke tests look at counts and order, which a run checks itself, never at times.

func TestFanout(t *testing.T) {
	t.Parallel()
	var machine Machine
	r, err := Fanout(testContext(t), FanoutConfig{
		Publishers: 20, Subscribers: 20, Replicas: 2, Channels: 3, Size: 150, Rounds: 1, Rates: []int{200},
		Warmup: 100 * time.Millisecond, Duration: time.Second, Idle: 100 * time.Millisecond,
		Setup: Setup{Binary: binary, Progress: testLog{t}, Machine: &machine},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, r, fanoutLoad, "1 publisher", "1 publisher, floor", "20 publishers", "20 publishers, floor")
	checkRows(t, r, fanoutBeside, "1 publisher", "20 publishers")
	checkRows(t, r, fanoutIdle, "replica 1", "replica 2", "PostgreSQL")
	open := r.table(fanoutOpen).row("200/s")
	if open == nil || open.Tally.Asked < 200 || open.Tally.Succeeded != open.Tally.Asked || open.times(receive).Count == 0 {
		t.Errorf("open loop: %+v", open)
	}
	if machine.Postgres == "" {
		t.Error("the server's version is not known")
	}
	checkPrints(t, r, "beside the floor", "idle", "200/s", "success")
}

func TestSQL(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	if _, err := devstack.Command(ctx, "pgbench"); err != nil {
		t.Skip(err)
	}
	r, err := SQL(ctx, SQLConfig{Writers: 4, Rounds: 1, Slice: time.Second, Setup: Setup{Binary: binary, Progress: testLog{t}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{diskAsItIs, diskSlow} {
		checkRows(t, r, disk, sqlAlone, sqlSecond, sqlPublish, sqlNotify)
		for _, row := range r.table(disk + ", ratios").Rows {
			if row.figure("rate").Value == 0 {
				t.Errorf("%s: %+v", disk, row)
			}
		}
	}
	checkPrints(t, r, "forgewire.publish", "all", "published messages were received")
}

// checkRows wants rows that all have something, whose things all went well.
func checkRows(t *testing.T, r *Result, table string, rows ...string) {
	t.Helper()
	tab := r.table(table)
	if tab == nil || len(tab.Rows) != len(rows) {
		t.Fatalf("table %q: %+v", table, tab)
	}
	for _, name := range rows {
		row := tab.row(name)
		if row == nil || len(row.Figures)+len(row.Times) == 0 {
			t.Errorf("%s, %s: %+v", table, name, row)
			continue
		}
		for _, d := range row.Times {
			if d.Count == 0 || d.Max == 0 {
				t.Errorf("%s, %s, %s: %+v", table, name, d.Name, d)
			}
		}
		if row.Tally != nil && (row.Tally.Asked == 0 || row.Tally.Success() != 1) {
			t.Errorf("%s, %s: %+v", table, name, row.Tally)
		}
	}
}

func checkPrints(t *testing.T, report *Result, words ...string) {
	t.Helper()
	var b bytes.Buffer
	if err := report.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, w := range words {
		if !strings.Contains(b.String(), w) {
			t.Errorf("there is no %q in\n%s", w, &b)
		}
	}
	file := filepath.Join(t.TempDir(), "report.json")
	written := &Report{Format: reportFormat, Results: []*Result{report}}
	if err := written.WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	read, err := ReadReport(file)
	if err != nil || !reflect.DeepEqual(read, written) {
		t.Errorf("%v: read %+v of %+v", err, read.Results, report)
	}
}
