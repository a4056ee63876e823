package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"forgewire/db/dbtest"
)

// What a namespace keeps bounds history and recovery, from the log and from the tail alike: a page ends
// there, and a position is refused where something after it was cut, never shortened.
func TestKept(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	start := appendN(t, l, "other", 1)[0].Offset
	m := appendN(t, l, "room:1", 10)
	appendN(t, l, "other", 3)
	// The first four are an hour old, by the log's clock.
	if _, err := pool.Exec(t.Context(), "UPDATE forgewire.messages SET published_at = now() - interval '1 hour' WHERE seq <= $1", int64(m[3].Offset)); err != nil {
		t.Fatal(err)
	}
	state := must(readState(t.Context(), pool, 0))
	tail := tail{limit: maxTailMessages}
	tail.reset(Position{Offset: start - 1, Epoch: state.epoch})
	tail.add(must(readRange(t.Context(), pool, start-1, 1<<60)))
	at := func(i int) Position { // the position before m[i]
		if i == 0 {
			return Position{start, state.epoch}
		}
		return Position{m[i-1].Offset, state.epoch}
	}
	for _, c := range []struct {
		name  string
		k     kept
		first int // the first of m that is kept
	}{
		{"everything", kept{}, 0},
		{"size", kept{size: 3}, 7},
		{"more than there is", kept{size: 10}, 0},
		{"age", kept{ttl: time.Minute}, 4},
		{"age and a smaller size", kept{size: 2, ttl: time.Minute}, 8},
		{"size and a smaller age", kept{size: 9, ttl: time.Minute}, 4},
		{"nothing is that young", kept{ttl: time.Nanosecond}, 10},
	} {
		for from := range 11 {
			for name, recover := range map[string]func() ([]*Message, error){
				"log": func() ([]*Message, error) { return l.recover(t.Context(), "room:1", at(from), state.last, c.k) },
				"tail": func() ([]*Message, error) {
					got, ok, err := tail.recover("room:1", at(from), state.last, c.k)
					if !ok {
						t.Errorf("%s: the tail does not know %d", c.name, from)
					}
					return got, err
				},
			} {
				got, err := recover()
				if from < c.first && !errors.Is(err, ErrUnrecoverable) || from >= c.first && (err != nil || len(got) != 10-from) {
					t.Errorf("%s, %s: recovered %d after %d, %v", c.name, name, len(got), from, err)
				}
			}
			since := at(from)
			h, err := l.History(t.Context(), "room:1", HistoryFilter{Limit: -1, Since: &since, kept: c.k})
			if from < c.first && !errors.Is(err, ErrUnrecoverable) || from >= c.first && (err != nil || len(h.Messages) != 10-from) {
				t.Errorf("%s: history has %d after %d, %v", c.name, len(h.Messages), from, err)
			}
			if h = must(l.History(t.Context(), "room:1", HistoryFilter{Limit: -1, Since: &since, Reverse: true, kept: c.k})); len(h.Messages) != max(0, from-c.first-min(1, from)) && from > 0 {
				t.Errorf("%s: %d before %d in reverse", c.name, len(h.Messages), from)
			}
		}
		for _, reverse := range []bool{false, true} {
			h := must(l.History(t.Context(), "room:1", HistoryFilter{Limit: 5, Reverse: reverse, kept: c.k}))
			want := m[c.first:]
			if len(want) > 5 && reverse {
				want = want[len(want)-5:]
			}
			want = want[:min(5, len(want))]
			if len(h.Messages) != len(want) || len(want) > 0 && !reverse && h.Messages[0].Offset != want[0].Offset ||
				len(want) > 0 && reverse && h.Messages[0].Offset != want[len(want)-1].Offset {
				t.Errorf("%s, reverse %v: %v, want %v", c.name, reverse, h.Messages, want)
			}
		}
	}
	if _, err := l.recover(t.Context(), "quiet", at(0), state.last, kept{size: 1, ttl: time.Nanosecond}); err != nil {
		t.Errorf("nothing was cut: %v", err)
	}
}

// Numbers by time, over partitions and holes.
func TestNumberBefore(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	var m []Message
	for range 4 {
		m = append(m, appendN(t, l, "a", 5)...)
		if _, err := pool.Exec(t.Context(), "SELECT setval('forgewire.head', last_value + 1000003) FROM forgewire.head"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), "UPDATE forgewire.messages SET published_at = '2026-01-01Z'::timestamptz + (SELECT count(*) FROM forgewire.messages o WHERE o.seq < messages.seq) * interval '1 minute'"); err != nil {
		t.Fatal(err)
	}
	for i := range 22 {
		got := one[uint64](t, pool, "SELECT forgewire.number_before('2026-01-01Z'::timestamptz + $1 * interval '1 minute')", i)
		if i > 0 && got < m[min(i, 20)-1].Offset || i < 20 && got >= m[i].Offset {
			t.Errorf("minute %d: %d", i, got)
		}
	}
}

// The tail is bounded by messages and by bytes, and what it dropped it does not know.
func TestTailBounds(t *testing.T) {
	t.Parallel()
	tail := tail{limit: 10}
	tail.reset(Position{Offset: 100, Epoch: "x"})
	add := func(offset uint64, size int) {
		tail.add([]Message{{Offset: offset, Channel: fmt.Sprint("c", offset%3), Data: make([]byte, size)}})
	}
	for o := uint64(101); o <= 130; o++ {
		add(o, 1)
	}
	recover := func(since uint64, epoch string) (int, bool) {
		got, ok, err := tail.recover("c0", Position{since, epoch}, 1000, kept{})
		if err != nil {
			t.Fatal(err)
		}
		return len(got), ok
	}
	for _, c := range []struct {
		since uint64
		epoch string
		n     int
		ok    bool
	}{{119, "x", 0, false}, {120, "x", 3, true}, {125, "x", 2, true}, {130, "x", 0, true}, {131, "x", 0, false}, {125, "y", 0, false}} {
		if n, ok := recover(c.since, c.epoch); n != c.n || ok != c.ok {
			t.Errorf("after %d: %d messages, %v", c.since, n, ok)
		}
	}
	tail.truncate(125)
	if n, ok := recover(125, "x"); n != 0 || !ok {
		t.Errorf("after a loss: %d, %v", n, ok)
	}
	for _, lost := range []uint64{126, 130} {
		if _, ok := recover(lost, "x"); ok {
			t.Errorf("%d is lost", lost)
		}
	}
	tail.truncate(110)
	if _, ok := recover(120, "x"); ok || tail.count != 0 || tail.bytes != 0 || len(tail.byChannel) != 0 {
		t.Error("a loss of everything")
	}
	add(5000, maxTailBytes+1)
	if n, ok := recover(5000, "x"); n != 0 || !ok || tail.count != 0 || tail.bytes != 0 {
		t.Errorf("a message larger than the tail: %d, %v, %d left", n, ok, tail.count)
	}
}

// Hints and flags of a subscribe, as the protocol has them.
func TestSubscribeFlags(t *testing.T) {
	t.Parallel()
	n := startReplica(t, dbtest.New(t), `{"namespaces":[{"name":"plain","recovery":false},{"name":"eph","ephemeral":true}]}`)
	sent := must(n.Publish(t.Context(), message("room:1", 1)))[0]
	eventually(t, 5*time.Second, "delivered", func() bool { return handedOn(n, sent.Offset) })
	lost := &protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: 1, Epoch: "another"}
	rejecting := &protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: 1, Epoch: "another", Flag: flagRejectUnrecovered}
	for _, c := range []struct {
		req  *protocol.SubscribeRequest
		want string
	}{
		{&protocol.SubscribeRequest{Channel: "room:1"}, "positioned recoverable"},
		{lost, "positioned recoverable recovering"},
		{rejecting, ErrUnrecoverable.Message},
		{&protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: sent.Offset, Epoch: n.Epoch(""), Flag: flagRejectUnrecovered}, "positioned recoverable recovering recovered"},
		{&protocol.SubscribeRequest{Channel: "plain:1"}, ""},
		{&protocol.SubscribeRequest{Channel: "plain:1", Positioned: true, Recoverable: true}, "positioned"},
		{&protocol.SubscribeRequest{Channel: "eph:1", Positioned: true, Recoverable: true}, ""},
		{&protocol.SubscribeRequest{Channel: "room:1", Type: 1}, "not available: only stream subscriptions exist"},
	} {
		client := newClient(n, discard{}, wsJSON)
		r, sub, err := client.subscribeTo(t.Context(), c.req)
		got := ""
		for _, f := range []struct {
			set  bool
			name string
		}{{r.GetPositioned(), " positioned"}, {r.GetRecoverable(), " recoverable"}, {r.GetWasRecovering(), " recovering"}, {r.GetRecovered(), " recovered"}} {
			if f.set {
				got += f.name
			}
		}
		if err != nil {
			got = " " + err.Error()
		}
		if got != "" && got[1:] != c.want || got == "" && c.want != "" {
			t.Errorf("%v: %q, want %q", c.req, got, c.want)
		}
		if (sub == nil) != (err != nil) || err != nil && len(client.subs) != 0 {
			t.Errorf("%v: a refused subscription stays", c.req)
		}
	}
}

// Clients that come back together, to a replica that heard what they missed, ask the database nothing.
func TestStormIsAnsweredFromTheTail(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := startReplica(t, url, ""), startReplica(t, url, "")
	first := must(a.Publish(t.Context(), message("room:1", 0)))[0].Offset
	for i := range 100 {
		must(a.Publish(t.Context(), message("room:1", i), message("room:2", i)))
	}
	reached := must(readState(t.Context(), a.cfg.Pool, 0)).last
	eventually(t, 5*time.Second, "heard", func() bool { return b.hub.in[0].position().Offset == reached })
	before := b.cfg.Pool.Stat().AcquireCount()
	for range 300 {
		c := newClient(b, discard{}, wsProtobuf)
		r, _, err := c.subscribeTo(t.Context(), &protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: first, Epoch: b.Epoch("")})
		if err != nil || !r.Recovered || len(r.Publications) != 100 {
			t.Fatalf("%d publications, %v", len(r.GetPublications()), err)
		}
		c.shard.remove(c)
	}
	if n := b.cfg.Pool.Stat().AcquireCount() - before; n > 5 {
		t.Errorf("the database was asked %d times", n)
	}
	// A replica that came later never saw the position: the log must judge it.
	late := startReplica(t, url, "")
	before = late.cfg.Pool.Stat().AcquireCount()
	c := newClient(late, discard{}, wsJSON)
	r, _, err := c.subscribeTo(t.Context(), &protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: first, Epoch: b.Epoch("")})
	if err != nil || !r.Recovered || len(r.Publications) != 100 || late.cfg.Pool.Stat().AcquireCount() == before {
		t.Errorf("from the log: %d publications, %v", len(r.GetPublications()), err)
	}
	c.shard.remove(c)
}

// 1,000 clients that come back at once, each having missed 1,000 messages, one channel each or all on one.
func BenchmarkResume(b *testing.B) {
	const clients, missed = 1000, 1000
	for _, c := range []struct {
		name  string
		limit int
	}{{"tail", maxTailMessages}, {"log", 1}} {
		b.Run(c.name, func(b *testing.B) {
			l, pool := newTestLog(b)
			n := &Node{hub: newHub(1), strands: []*strand{{log: l, past: l}}, logger: slog.New(slog.DiscardHandler), cfg: Config{Namespaces: NewNamespaces()}}
			n.strands[0].in = n.hub.in[0]
			n.hub.in[0].tail.limit = c.limit
			s := must(readState(b.Context(), pool, 0))
			since := Position{Offset: s.last, Epoch: s.epoch}
			n.hub.in[0].tail.reset(since)
			m := make([]Message, missed)
			for i := range m {
				m[i] = Message{Channel: "room:1", Data: []byte(`{"text":"a message of some length, as a chat has them, and no more than that"}`)}
			}
			if err := appendTo(b.Context(), pool, 0, m); err != nil {
				b.Fatal(err)
			}
			n.hub.in[0].tail.add(m)
			for _, sh := range n.hub.shards {
				sh.handle(event{reset: true, at: m[missed-1].Offset, epoch: s.epoch})
			}
			req := &protocol.SubscribeRequest{Channel: "room:1", Recover: true, Offset: since.Offset, Epoch: since.Epoch}
			b.ResetTimer()
			for range b.N {
				resumeAll(b, n, req, clients, missed)
			}
			b.ReportMetric(float64(clients*missed*b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

func resumeAll(b *testing.B, n *Node, req *protocol.SubscribeRequest, clients, missed int) {
	done := make(chan int, clients)
	for range clients {
		go func() {
			out := &counting{}
			c := newClient(n, out, wsJSON)
			if d := c.subscribe(context.Background(), &protocol.Command{Id: 1, Subscribe: req}); d != nil {
				b.Error(d)
			}
			c.shard.remove(c)
			done <- out.bytes
		}()
	}
	for range clients {
		if got := <-done; got < missed*80 {
			b.Fatalf("a client got %d bytes", got)
		}
	}
}

// counting is a transport that counts.
type counting struct {
	discard
	bytes int
}

func (c *counting) send(b []byte, _ int) error {
	c.bytes += len(b)
	return nil
}

// What is older than the log keeps is not told from memory either.
func TestTailKeepsToTheRetention(t *testing.T) {
	t.Parallel()
	tail := tail{limit: 10, age: time.Minute}
	tail.reset(Position{10, "x"})
	old := message("a", 1)
	old.Offset, old.published = 11, time.Now().Add(-2*time.Minute)
	recent := message("a", 2)
	recent.Offset = 12
	tail.add([]Message{old})
	if m := tail.latest("a", 100); m != nil {
		t.Errorf("the latest is %d", m.Offset)
	}
	tail.add([]Message{recent})
	if _, ok, _ := tail.recover("a", Position{10, "x"}, 100, kept{}); ok {
		t.Error("it told an old message")
	}
	if got, ok, err := tail.recover("a", Position{11, "x"}, 100, kept{}); !ok || err != nil || len(got) != 1 {
		t.Errorf("%v, %t, %v", got, ok, err)
	}
}
