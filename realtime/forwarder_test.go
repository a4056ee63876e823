package realtime

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db/dbtest"
)

// What is published from SQL on channels of any log arrives there, each once and in the order of its transaction, whatever
// is rolled back, also while the replicas that forward lose their connections.
func TestForward(t *testing.T) {
	t.Parallel()
	urls := logs(t, 3)
	a, b := spreadReplica(t, urls), spreadReplica(t, urls)
	channels := []string{channelIn(0, 3), channelIn(1, 3), channelIn(2, 3)}
	const writers, rounds = 4, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			conn := must(pgx.Connect(context.Background(), urls[0]))
			defer conn.Close(context.Background())
			for i := range rounds {
				tx := must(conn.Begin(context.Background()))
				for _, ch := range channels {
					must(tx.Exec(context.Background(), "SELECT forgewire.publish($1, to_jsonb($2::text))", ch, fmt.Sprintf("%d-%d", w, i)))
				}
				if i%4 == 3 {
					_ = tx.Rollback(context.Background())
				} else if err := tx.Commit(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 4 { // the word of what was forwarded is lost, and the lock goes to another replica
		pause(t.Context(), 100*time.Millisecond)
		must(a.node.cfg.Pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'forgewire forward'"))
	}
	wg.Wait()
	var want []string
	for w := range writers {
		for i := range rounds {
			if i%4 != 3 {
				want = append(want, fmt.Sprintf(`"%d-%d"`, w, i))
			}
		}
	}
	for place, ch := range channels {
		eventually(t, 30*time.Second, fmt.Sprint("everything is in log ", place), func() bool { return len(content(t, urls[place], ch)) >= len(want) })
	}
	eventually(t, 30*time.Second, "nothing waits", func() bool {
		return one[int](t, a.node.cfg.Pool, "SELECT (SELECT count(*) FROM forgewire.forwards) + (SELECT count(*) FROM forgewire.forwarding) + (SELECT count(*) FROM forgewire.outbox)") == 0
	})
	for place, ch := range channels {
		got := content(t, urls[place], ch)
		for w := range writers {
			mine := slices.DeleteFunc(slices.Clone(got), func(m string) bool { return m[:3] != fmt.Sprintf(`"%d-`, w) })
			mineWant := slices.DeleteFunc(slices.Clone(want), func(m string) bool { return m[:3] != fmt.Sprintf(`"%d-`, w) })
			if !slices.Equal(mine, mineWant) {
				t.Errorf("log %d, writer %d: %v", place, w, mine)
			}
		}
		for other, url := range urls {
			if other != place && len(content(t, url, ch)) != 0 {
				t.Errorf("%s is also in log %d", ch, other)
			}
		}
	}
	if sent := a.node.forwarders[0].sent.Load() + b.node.forwarders[0].sent.Load(); sent != uint64(len(want)) {
		t.Errorf("the replicas forwarded %d messages to log 1, of %d", sent, len(want))
	}
}

// A batch that is sent again, by one who does not know that it was committed, or by one who was taken for dead, is appended
// once; and after a failover that took numbers back, what has a lesser number than was received before is not taken for old.
func TestForwardOnce(t *testing.T) {
	t.Parallel()
	urls := logs(t, 2)
	r := spreadReplica(t, urls)
	f, set, ch := r.node.forwarders[0], r.node.strands[0].set.Load(), channelIn(1, 2)
	at := func(incarnation, number int64, n int) numbered {
		return numbered{Message: message(ch, n), incarnation: incarnation, number: number}
	}
	for _, batch := range [][]numbered{
		{at(10, 1, 0), at(10, 2, 1)},
		{at(10, 1, 0), at(10, 2, 1)},
		{at(10, 2, 1), at(10, 3, 2)},
		{at(10, 1, 0)},
		{at(20, 1, 3)},
		{at(10, 3, 2), at(20, 1, 3), at(20, 2, 4)},
	} {
		if err := f.takeIn(t.Context(), set, batch); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(t, urls[1], ch); !slices.Equal(got, numbers(0, 5)) {
		t.Errorf("%v", got)
	}
	stale := *set
	stale.generation--
	if err := f.takeIn(t.Context(), &stale, []numbered{at(20, 9, 9)}); err == nil || len(content(t, urls[1], ch)) != 5 {
		t.Errorf("one who knows another set forwarded: %v", err)
	}
}

// What waits when a log is added, on channels that move, goes to the new log, once, also if its old log had it already and
// the word of it was lost. A key works as in the log itself.
func TestForwardAfterAddLog(t *testing.T) {
	t.Parallel()
	urls := []string{dbtest.New(t), dbtest.New(t), dbtest.New(t)}
	must(SetLogs(t.Context(), urls[:2], false))
	var fromFirst, fromSecond, had string // channels that move to the third
	for i := 0; fromFirst == "" || fromSecond == "" || had == ""; i++ {
		c := fmt.Sprintf("c%d", i)
		switch was := PlaceOf(c, 2); {
		case PlaceOf(c, 3) != 2:
		case was == 0:
			fromFirst = c
		case had == "":
			had = c
		default:
			fromSecond = c
		}
	}
	conn := must(pgx.Connect(t.Context(), urls[0]))
	defer conn.Close(context.Background())
	publish := func(c string, n int) {
		must(conn.Exec(t.Context(), "SELECT forgewire.publish($1, to_jsonb($2::int), $3)", c, n, fmt.Sprint("key ", n)))
	}
	// No replica runs. What one would have done by now:
	publish(had, 0)
	must(conn.Exec(t.Context(), "SELECT forgewire.drain_at(1, '3:3:', 100, 1000000)"))
	second := must(pgx.Connect(t.Context(), urls[1]))
	defer second.Close(context.Background())
	must(second.Exec(t.Context(), `SELECT forgewire.append_at(1, ARRAY[$1], ARRAY['0'], '{NULL}', '{""}', '{1}', '{}')`, had))
	rows := must(conn.Query(t.Context(), "SELECT incarnation, number FROM forgewire.forwards"))
	marks := must(pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Incarnation, Number int64 }]))
	must(second.Exec(t.Context(), "INSERT INTO forgewire.received VALUES ($1, $2, $3)", must(readLogSet(t.Context(), conn)).own, marks[0].Incarnation, marks[0].Number))
	publish(fromSecond, 0)
	must(conn.Exec(t.Context(), "SELECT forgewire.drain_at(1, '3:3:', 100, 1000000)"))
	publish(fromSecond, 1)
	publish(fromFirst, 0)
	publish(fromFirst, 1)

	must(SetLogs(t.Context(), urls, false))
	publish(fromFirst, 1)
	publish(fromFirst, 2)
	publish(fromSecond, 2)
	spreadReplica(t, urls)
	for _, c := range []string{fromFirst, fromSecond} {
		eventually(t, 20*time.Second, c+" is in the new log", func() bool { return len(content(t, urls[2], c)) >= 3 })
		if got := content(t, urls[2], c); !slices.Equal(got, numbers(0, 3)) {
			t.Errorf("%s: %v", c, got)
		}
	}
	if got := content(t, urls[2], had); len(got) != 0 {
		t.Errorf("%s was published twice: %v", had, got)
	}
	if _, err := second.Exec(t.Context(), "SELECT forgewire.publish('x', '1')"); err == nil {
		t.Error("published from SQL in a log that no replica drains")
	}
}
