package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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
	r, err := Fanout(testContext(t), FanoutConfig{
		Publishers: 20, Subscribers: 20, Replicas: 2, Channels: 3, Size: 150, Rounds: 1,
		Warmup: 100 * time.Millisecond, Duration: time.Second, Idle: 100 * time.Millisecond,
		Binary: binary, Progress: testLog{t},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 2 || r.Runs[0].Publishers != 1 || r.Runs[1].Publishers != 20 {
		t.Fatalf("runs: %+v", r.Runs)
	}
	for _, run := range r.Runs {
		if run.Whole.Refused != 0 || run.Whole.Published == 0 || run.Whole.Checked < run.Whole.Published {
			t.Errorf("%d publishers, whole: %+v", run.Publishers, run.Whole)
		}
		if run.Floor == nil || run.Floor.Published == 0 || run.Floor.Checked < run.Floor.Published {
			t.Errorf("%d publishers, floor: %+v", run.Publishers, run.Floor)
		}
	}
	if r.Idle == nil || len(r.Idle.Cores) != 2 {
		t.Errorf("idle: %+v", r.Idle)
	}
	checkPrints(t, r, "ratio", "idle")
}

func TestSQL(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	if _, err := devstack.Command(ctx, "pgbench"); err != nil {
		t.Skip(err)
	}
	r, err := SQL(ctx, SQLConfig{Writers: 4, Rounds: 1, Slice: time.Second, Binary: binary, Progress: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Disks) != 2 {
		t.Fatalf("disks: %+v", r.Disks)
	}
	for _, d := range r.Disks {
		if d.Published == 0 || len(d.Cases) != 4 || d.Ratios["c/b"] == 0 {
			t.Errorf("%+v", d)
		}
	}
	checkPrints(t, r, "forgewire.publish", "c/b")
}

func checkPrints(t *testing.T, report interface{ Print(w io.Writer) error }, words ...string) {
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
	if _, err := json.Marshal(report); err != nil {
		t.Error(err)
	}
}
