package realtime

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// The drain lays messages into notifications by the same rules as the publisher: as few as they need, none
// too large, and one that fits into none by reference.
func TestDrainPacks(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	c, ear := dial(t, url), dial(t, url)
	if _, err := ear.Exec(t.Context(), "LISTEN "+notifyLog); err != nil {
		t.Fatal(err)
	}
	most := maxPayload - maxHeader - len("room:1") - 3
	var sent []Message
	for _, size := range []int{10, most, 10, most + 1, most - 1, 3000, 3000, 3000, 150, 150, 100_000, 100_000, 5} {
		sent = append(sent, Message{Channel: "room:1", Data: []byte(`"` + strings.Repeat("x", size-2) + `"`)})
	}
	for range 200 {
		sent = append(sent, Message{Channel: "room:2", Data: []byte(`{"n": "` + strings.Repeat("é", 60) + `"}`)})
	}
	tx := must(c.Begin(t.Context()))
	for _, m := range sent {
		if _, err := tx.Exec(t.Context(), "SELECT forgewire.publish($1, $2)", m.Channel, string(m.Data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, c, "SELECT moved FROM forgewire.drain($1::text::pg_snapshot, $2, $3)", nothingSeen, drainRows, drainBytes); n != len(sent) {
		t.Fatalf("%d were moved, want %d", n, len(sent))
	}
	bodies, counts := pack(sent, make([]string, len(sent)))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var last uint64
	for i := range bodies {
		n, err := ear.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("notification %d of %d: %v", i, len(bodies), err)
		}
		header, body, _ := strings.Cut(n.Payload, "\n")
		if body != bodies[i] {
			t.Fatalf("notification %d, %q, has %d bytes, want %d of %d messages", i, header, len(body), len(bodies[i]), counts[i])
		}
		got, err := parseNotification(n.Payload)
		if err != nil || got.count != uint64(counts[i]) || i > 0 && got.prev != last {
			t.Fatalf("notification %d, %q, after %d: %v", i, header, last, err)
		}
		last = got.last()
	}
	if n := one[int](t, c, "SELECT count(*) FROM forgewire.messages"); n != len(sent) {
		t.Errorf("the log has %d messages, want %d", n, len(sent))
	}
}

// What makes the drain keep to its index makes its plans look dear enough to be compiled, for 50 ms of CPU a look,
// on a server with its defaults; those of the tests have jit off anyhow.
func TestDrainIsNeverCompiled(t *testing.T) {
	t.Parallel()
	c := dial(t, dbtest.New(t))
	if !one[bool](t, c, "SELECT 'jit=off' = ANY (proconfig) FROM pg_proc WHERE proname = 'drain' AND pronamespace = 'forgewire'::regnamespace") {
		t.Error("forgewire.drain runs with the server's jit")
	}
}

// A batch ends at its bounds, and the next one with the same snapshot goes on where it ended.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	c := dial(t, dbtest.New(t))
	for from := range 5 {
		if _, err := c.Exec(t.Context(), "SELECT forgewire.publish('room:1', to_jsonb(n)) FROM generate_series($1::int * 4, $1::int * 4 + 3) n", from); err != nil {
			t.Fatal(err)
		}
	}
	for _, bound := range []struct {
		rows, bytes, moved int
		more               bool
	}{{7, 1000, 7, true}, {1000, 1, 1, true}, {11, 1000, 11, true}, {1000, 1000, 1, false}, {1000, 1000, 0, false}} {
		var more bool
		var moved int
		err := c.QueryRow(t.Context(), "SELECT more, moved FROM forgewire.drain($1::text::pg_snapshot, $2, $3)", nothingSeen, bound.rows, bound.bytes).Scan(&more, &moved)
		if err != nil {
			t.Fatal(err)
		}
		if more != bound.more || moved != bound.moved {
			t.Errorf("with at most %d rows and %d bytes: %d were moved, more: %v; want %d, %v", bound.rows, bound.bytes, moved, more, bound.moved, bound.more)
		}
	}
	if got := one[string](t, c, "SELECT string_agg(data, ' ' ORDER BY seq) FROM forgewire.messages"); got != strings.Trim(fmt.Sprint(seq(20)), "[]") {
		t.Errorf("the log has %s", got)
	}
}

// A key that was used, here or by a publish that did not come from SQL, publishes nothing more, and leads to the
// number of the first message.
func TestDrainKeys(t *testing.T) {
	t.Parallel()
	l, c := newTestLog(t)
	first := []Message{keyed("a", "1", "x")}
	if err := appendTo(t.Context(), l.pool, 0, first); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`SELECT forgewire.publish('a', '2', 'x'), forgewire.publish('a', '3'), forgewire.publish('a', '4', 'y'), forgewire.publish('b', '5', 'y'), forgewire.publish('a', '6', 'y')`,
		`SELECT forgewire.publish('a', '7', 'y'), forgewire.publish('b', '8', 'y')`, // nothing is left of it
	} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		one[int](t, c, "SELECT moved FROM forgewire.drain($1::text::pg_snapshot, $2, $3)", nothingSeen, drainRows, drainBytes)
	}
	var all []string
	numbers := map[string]uint64{}
	for _, m := range must(readRange(t.Context(), l.pool, 0, 1<<60)) {
		all = append(all, m.Channel+string(m.Data))
		numbers[string(m.Data)] = m.Offset
	}
	if fmt.Sprint(all) != "[a1 a3 a4 b5]" {
		t.Errorf("the log has %v", all)
	}
	again := []Message{keyed("a", "9", "y"), keyed("b", "9", "y"), keyed("a", "9", "x")}
	if err := appendTo(t.Context(), l.pool, 0, again); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"4", "5", "1"} {
		if again[i].Offset != numbers[want] {
			t.Errorf("retry %d: got number %d, want %d", i, again[i].Offset, numbers[want])
		}
	}
}

// seq returns the numbers from 0 to below n.
func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}
