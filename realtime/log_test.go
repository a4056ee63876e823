package realtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

func newTestLog(t testing.TB) (*Log, *pgxpool.Pool) {
	t.Helper()
	pool, err := db.NewPool(context.Background(), db.PoolConfig{URL: dbtest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewLog(pool), pool
}

// later makes everything in the log as old as it is after d.
func later(t testing.TB, pool *pgxpool.Pool, d time.Duration) {
	t.Helper()
	for _, table := range []string{"messages", "published_keys"} {
		if _, err := pool.Exec(t.Context(), "UPDATE forgewire."+table+" SET published_at = published_at - $1::interval", d); err != nil {
			t.Fatal(err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func appendN(t testing.TB, l *Log, channel string, n int) []Message {
	t.Helper()
	m := make([]Message, n)
	for i := range m {
		m[i] = Message{Channel: channel, Data: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	if err := appendTo(t.Context(), l.pool, 0, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAppendNumbersFollowEachOther(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	a, b := appendN(t, l, "room:1", 3), appendN(t, l, "room:2", 2)
	if b[0].Offset != a[2].Offset+1 || a[0].Offset+2 != a[2].Offset {
		t.Fatalf("offsets %v, %v", a, b)
	}
	got := must(readRange(t.Context(), l.pool, a[0].Offset, b[1].Offset+1))
	if len(got) != 4 || string(got[0].Data) != `{"n":1}` || got[3].Channel != "room:2" {
		t.Fatalf("read %v", got)
	}
	if a[0].Offset >= 1<<53 {
		t.Fatalf("offset %d is not exact in JavaScript", a[0].Offset)
	}
}

func TestRetirement(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	old := appendN(t, l, "room:1", 10)
	const age, size = 24 * time.Hour, 1 << 30
	// A quarter of the age later the current partition is old enough for the next one to begin.
	later(t, pool, age/4)
	if err := l.Maintain(t.Context(), age, size); err != nil {
		t.Fatal(err)
	}
	recent := appendN(t, l, "room:1", 10)
	if recent[0].Offset <= old[9].Offset+1 {
		t.Fatal("no new partition was begun")
	}
	h := must(l.History(t.Context(), "room:1", HistoryFilter{Limit: -1}))
	if len(h.Messages) != 20 {
		t.Fatalf("%d messages, want all 20 before retirement", len(h.Messages))
	}
	before := Position{Offset: old[4].Offset, Epoch: h.Position.Epoch}
	if got := must(l.recover(t.Context(), "room:1", before, recent[9].Offset, kept{})); len(got) != 15 {
		t.Fatalf("recovered %d messages over the partitions' border, want 15", len(got))
	}
	later(t, pool, age*3/4+time.Minute)
	if err := l.Maintain(t.Context(), age, size); err != nil {
		t.Fatal(err)
	}
	h = must(l.History(t.Context(), "room:1", HistoryFilter{Limit: -1}))
	if len(h.Messages) != 10 || h.Messages[0].Offset != recent[0].Offset {
		t.Fatalf("%d messages after retirement, want the 10 recent ones", len(h.Messages))
	}
	if _, err := l.recover(t.Context(), "room:1", before, recent[9].Offset, kept{}); !errors.Is(err, ErrUnrecoverable) {
		t.Fatalf("a retired position: %v", err)
	}
	last := Position{Offset: old[9].Offset, Epoch: h.Position.Epoch}
	if got := must(l.recover(t.Context(), "room:1", last, recent[9].Offset, kept{})); len(got) != 10 {
		t.Fatalf("recovered %d messages from the last retired position, want 10", len(got))
	}
	var partitions int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_inherits WHERE inhparent = 'forgewire.messages'::regclass").Scan(&partitions); err != nil || partitions > 3 {
		t.Fatalf("%d partitions, %v", partitions, err)
	}
}

func TestRetirementBySize(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	for range 6 {
		appendN(t, l, "room:1", 500)
		if err := l.Maintain(t.Context(), 24*time.Hour, 256<<10); err != nil {
			t.Fatal(err)
		}
	}
	h := must(l.History(t.Context(), "room:1", HistoryFilter{Limit: -1}))
	if len(h.Messages) == 0 || len(h.Messages) >= 3000 {
		t.Fatalf("%d messages are left, want some and not all", len(h.Messages))
	}
}

// A dump holds the table for as long as it runs: retirement waits for another time, and nobody waits for it.
func TestRetirementDoesNotWait(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	appendN(t, l, "room:1", 1)
	later(t, pool, 12*time.Hour)
	if err := l.Maintain(t.Context(), 24*time.Hour, 1<<30); err != nil {
		t.Fatal(err)
	}
	tx := must(pool.Begin(t.Context()))
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "LOCK TABLE forgewire.messages IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	later(t, pool, 36*time.Hour)
	if err := l.Maintain(t.Context(), 24*time.Hour, 1<<30); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, "room:1", 1)
	if h := must(l.History(t.Context(), "room:1", HistoryFilter{Limit: -1})); len(h.Messages) != 2 {
		t.Fatalf("%d messages, want both", len(h.Messages))
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	m := appendN(t, l, "room:1", 5)
	epoch := must(readState(t.Context(), l.pool, m[0].Offset)).epoch
	// The log loses its last two messages and begins a new incarnation, as after a crash.
	if _, err := pool.Exec(t.Context(), "DELETE FROM forgewire.messages WHERE seq > $1", int64(m[2].Offset)); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "TRUNCATE forgewire.vouched"); err != nil {
		t.Fatal(err)
	}
	next := appendN(t, l, "room:1", 2)
	if next[0].Offset <= m[4].Offset+1 {
		t.Fatalf("number %d may have been given out before", next[0].Offset)
	}
	for _, c := range []struct {
		name   string
		since  Position
		missed int
		err    error
	}{
		{"before everything", Position{m[0].Offset - 1, epoch}, 5, nil},
		{"inside the first incarnation", Position{m[1].Offset, epoch}, 3, nil},
		{"its last survivor", Position{m[2].Offset, epoch}, 2, nil},
		{"a lost message", Position{m[3].Offset, epoch}, 0, ErrUnrecoverable},
		{"inside the next incarnation", Position{next[0].Offset, epoch}, 1, nil},
		{"the newest", Position{next[1].Offset, epoch}, 0, nil},
		{"the future", Position{next[1].Offset + 1, epoch}, 0, ErrUnrecoverable},
		{"another log", Position{m[1].Offset, "other"}, 0, ErrUnrecoverable},
		{"zero", Position{0, epoch}, 0, ErrUnrecoverable},
	} {
		got, err := l.recover(t.Context(), "room:1", c.since, next[1].Offset, kept{})
		if len(got) != c.missed || !errors.Is(err, c.err) {
			t.Errorf("%s: %d messages, %v; want %d, %v", c.name, len(got), err, c.missed, c.err)
		}
	}
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	large := message("a", 0)
	large.Data = []byte(`"` + strings.Repeat("x", maxHistoryBytes/3) + `"`)
	sent := []Message{large, message("b", 0), large, large, large, large}
	if err := appendTo(t.Context(), l.pool, 0, sent); err != nil {
		t.Fatal(err)
	}
	h := must(l.History(t.Context(), "a", HistoryFilter{Limit: -1}))
	if len(h.Messages) != 3 || h.Messages[2].Offset != sent[3].Offset || h.Position.Offset != sent[5].Offset {
		t.Errorf("%d messages, position %v", len(h.Messages), h.Position)
	}
	rest := must(l.History(t.Context(), "a", HistoryFilter{Limit: -1, Since: &Position{sent[3].Offset, h.Position.Epoch}}))
	back := must(l.History(t.Context(), "a", HistoryFilter{Limit: -1, Reverse: true}))
	if len(rest.Messages) != 2 || len(back.Messages) != 3 || back.Messages[0].Offset != sent[5].Offset {
		t.Errorf("then %d, and back %d", len(rest.Messages), len(back.Messages))
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	m := appendN(t, l, "room:1", 10)
	appendN(t, l, "room:2", 1)
	at := func(i int) *Position { return &Position{Offset: m[i].Offset} }
	for _, c := range []struct {
		name        string
		f           HistoryFilter
		first, last int // indexes into m; -1 for none
	}{
		{"position only", HistoryFilter{}, -1, -1},
		{"all", HistoryFilter{Limit: -1}, 0, 9},
		{"first three", HistoryFilter{Limit: 3}, 0, 2},
		{"newest three", HistoryFilter{Limit: 3, Reverse: true}, 9, 7},
		{"after", HistoryFilter{Limit: 2, Since: at(4)}, 5, 6},
		{"before", HistoryFilter{Limit: 2, Since: at(4), Reverse: true}, 3, 2},
		{"after the last", HistoryFilter{Limit: 2, Since: at(9)}, -1, -1},
	} {
		h, err := l.History(t.Context(), "room:1", c.f)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if h.Position.Offset != m[9].Offset+1 {
			t.Errorf("%s: position %v", c.name, h.Position)
		}
		switch {
		case c.first < 0 && len(h.Messages) > 0:
			t.Errorf("%s: %d messages, want none", c.name, len(h.Messages))
		case c.first >= 0 && (len(h.Messages) == 0 || h.Messages[0].Offset != m[c.first].Offset || h.Messages[len(h.Messages)-1].Offset != m[c.last].Offset):
			t.Errorf("%s: %v", c.name, h.Messages)
		}
	}
}
