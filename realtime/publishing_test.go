package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// startReplica runs a Node on a database, with these namespaces, until the test ends.
func startReplica(t testing.TB, url, namespaces string) *Node {
	t.Helper()
	return runReplica(t, Config{Pool: must(db.NewPool(context.Background(), db.PoolConfig{URL: url})), ListenURL: url,
		Logger: slog.New(slog.DiscardHandler), AllowAnonymous: true, Tokens: TokenConfig{Secret: testSecret},
		Namespaces: must(ParseNamespaces(namespaces)), MaxConnections: 10_000, MaxPublicationBytes: 1 << 20,
		RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: time.Second}, nil).node
}

// subscriber is one with the published Go client.
type subscriber struct {
	client *centrifuge.Client
	sub    *centrifuge.Subscription
	mu     sync.Mutex
	got    []string
	subs   []centrifuge.SubscribedEvent
	err    error
}

func subscribe(t testing.TB, n *Node, binary bool, channel string, cfg centrifuge.SubscriptionConfig) *subscriber {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(n.ServeWebSocket))
	url := "ws" + strings.TrimPrefix(server.URL, "http")
	s := &subscriber{client: centrifuge.NewJsonClient(url, centrifuge.Config{MinReconnectDelay: 10 * time.Millisecond})}
	if binary {
		s.client = centrifuge.NewProtobufClient(url, centrifuge.Config{MinReconnectDelay: 10 * time.Millisecond})
	}
	t.Cleanup(func() {
		s.client.Close()
		server.Close()
	})
	var err error
	if s.sub, err = s.client.NewSubscription(channel, cfg); err != nil {
		t.Fatal(err)
	}
	s.sub.OnPublication(func(e centrifuge.PublicationEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, string(e.Data))
	})
	s.sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.subs = append(s.subs, e)
	})
	s.sub.OnError(func(e centrifuge.SubscriptionErrorEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = e.Error
	})
	s.connect(t)
	return s
}

func (s *subscriber) connect(t testing.TB) {
	t.Helper()
	before := s.subscribed()
	for _, err := range []error{s.client.Connect(), s.sub.Subscribe()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "subscribed", func() bool { return s.subscribed() > before || s.failure() != nil })
}

func (s *subscriber) subscribed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs)
}

func (s *subscriber) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *subscriber) last() centrifuge.SubscribedEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subs[len(s.subs)-1]
}

// expect waits until exactly these publications have arrived.
func (s *subscriber) expect(t testing.TB, want ...string) {
	t.Helper()
	ok := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got) >= len(want)
	}
	eventually(t, 10*time.Second, fmt.Sprint(len(want), " publications"), ok)
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.got) != fmt.Sprint(want) {
		t.Fatalf("got %.500q, want %.500q", s.got, want)
	}
}

func keyed(channel, data, key string) Message {
	return Message{Channel: channel, Data: []byte(data), Key: key}
}

// A key that reaches two replicas many times at once, beside publishes without one, is one message, and all
// are told its number; also after a restart, and from SQL.
func TestKeyAcrossReplicas(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	replicas := []*Node{startReplica(t, url, ""), startReplica(t, url, "")}
	var wg sync.WaitGroup
	offsets := make([]uint64, 60)
	for i := range offsets {
		wg.Go(func() {
			n := replicas[i%2]
			if _, err := n.Publish(t.Context(), message("other", i)); err != nil {
				t.Error(err)
			}
			sent, err := n.Publish(t.Context(), message("before", i), keyed("room:1", fmt.Sprint(i), "k"), message("after", i))
			if err != nil {
				t.Error(err)
				return
			}
			offsets[i] = sent[1].Offset
		})
	}
	wg.Wait()
	log := replicas[0].strands[0].log
	for _, o := range offsets {
		if o == 0 || o != offsets[0] {
			t.Fatalf("different answers: %v", offsets)
		}
	}
	restarted := startReplica(t, url, "")
	if sent := must(restarted.Publish(t.Context(), keyed("room:1", `"late"`, "k"))); sent[0].Offset != offsets[0] {
		t.Errorf("after a restart: %d, want %d", sent[0].Offset, offsets[0])
	}
	if sent := must(restarted.Publish(t.Context(), keyed("room:2", "1", "k"))); sent[0].Offset <= offsets[0] {
		t.Errorf("a key is of its channel: %d", sent[0].Offset)
	}
	for range 2 {
		if _, err := log.pool.Exec(t.Context(), `SELECT forgewire.publish('room:1', '2', 'k'), forgewire.broadcast('{room:3,room:1}', '3', 'sql'), forgewire.publish('end', '4')`); err != nil {
			t.Fatal(err)
		}
	}
	count := func(channel string) int {
		return one[int](t, log.pool, "SELECT count(*) FROM forgewire.messages WHERE channel = $1", channel)
	}
	eventually(t, 10*time.Second, "the outbox is drained", func() bool { return count("end") == 2 })
	for channel, want := range map[string]int{"room:1": 2, "room:2": 1, "room:3": 1, "before": 60, "after": 60, "other": 60} {
		if n := count(channel); n != want {
			t.Errorf("%s has %d messages, want %d", channel, n, want)
		}
	}
}

// In one flush: what was published before, what is there twice, and what has no key, each with its number.
func TestKeysInOneFlush(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	first := []Message{keyed("a", "1", "x"), keyed("a", "2", "y")}
	if err := appendTo(t.Context(), l.pool, 0, first); err != nil {
		t.Fatal(err)
	}
	passing := Message{Channel: "e", Data: []byte("0"), ephemeral: true}
	m := []Message{passing, message("a", 3), keyed("a", "4", "y"), keyed("a", "5", "z"), keyed("a", "6", "x"), passing, keyed("b", "7", "x"), keyed("a", "8", "z"), message("a", 9)}
	if err := appendTo(t.Context(), l.pool, 0, m); err != nil {
		t.Fatal(err)
	}
	base := first[1].Offset
	for i, want := range []uint64{0, base + 1, base, base + 2, base - 1, 0, base + 3, base + 2, base + 4} {
		if m[i].Offset != want {
			t.Errorf("message %d: %d, want %d", i, m[i].Offset, want)
		}
	}
	log := must(readRange(t.Context(), l.pool, 0, 1<<60))
	var all []string
	for _, m := range log {
		all = append(all, m.Channel+string(m.Data))
	}
	if fmt.Sprint(all) != "[a1 a2 a3 a5 b7 a9]" {
		t.Errorf("the log has %v", all)
	}
	// All of them known: nothing is appended.
	again := []Message{keyed("a", "1", "x"), keyed("a", "2", "y")}
	if err := appendTo(t.Context(), l.pool, 0, again); err != nil || again[0].Offset != first[0].Offset || again[1].Offset != base {
		t.Errorf("%v, %v", again, err)
	}
}

// Keys are kept for five minutes at least, and then forgotten, however many there are.
func TestKeysAreForgotten(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	if err := appendTo(t.Context(), pool, 0, []Message{keyed("a", "1", "k")}); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO forgewire.published_keys SELECT 'b', n, n, now() FROM generate_series(1, $1) n", 2*forgetKeysStep+1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		left  int
	}{{keepKeys - time.Minute, 2*forgetKeysStep + 2}, {2 * time.Minute, 0}} {
		later(t, pool, c.after)
		if err := l.Maintain(t.Context(), 24*time.Hour, 1<<30); err != nil {
			t.Fatal(err)
		}
		if n := one[int](t, pool, "SELECT count(*) FROM forgewire.published_keys"); n != c.left {
			t.Errorf("%v later there are %d keys, want %d", c.after, n, c.left)
		}
	}
	again := []Message{keyed("a", "1", "k")}
	if err := appendTo(t.Context(), pool, 0, again); err != nil || one[int](t, pool, "SELECT count(*) FROM forgewire.messages") != 2 {
		t.Errorf("a forgotten key: %v", err)
	}
}

// What cannot be published is refused as a bad request or as too large, and nothing of it is.
func TestPublicationBounds(t *testing.T) {
	t.Parallel()
	n := &Node{cfg: Config{MaxPublicationBytes: 1000, Namespaces: must(ParseNamespaces(`{"namespaces":[{"name":"cursors","ephemeral":true}]}`))}}
	tags := func(n int, value string) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = value
		}
		return m
	}
	for _, c := range []struct {
		name string
		m    Message
		code uint32
	}{
		{"plain", keyed("a", "1", ""), 0},
		{"longest key", keyed("a", "1", strings.Repeat("k", MaxKeyLength)), 0},
		{"longer key", keyed("a", "1", strings.Repeat("k", MaxKeyLength+1)), 107},
		{"NUL in a key", keyed("a", "1", "k\x00"), 107},
		{"not UTF-8", keyed("a", "1", "\xff"), 107},
		{"ephemeral", keyed("cursors:1", "1", "k"), 107},
		{"most tags", Message{Channel: "a", Data: []byte("1"), Meta: Meta{Tags: tags(MaxTags, "v")}}, 0},
		{"more tags", Message{Channel: "a", Data: []byte("1"), Meta: Meta{Tags: tags(MaxTags+1, "v")}}, 106},
		{"large tag", Message{Channel: "a", Data: []byte("1"), Meta: Meta{Tags: tags(1, strings.Repeat("v", MaxTagsBytes))}}, 106},
		{"tag without a name", Message{Channel: "a", Data: []byte("1"), Meta: Meta{Tags: map[string]string{"": "v"}}}, 107},
		{"large info", Message{Channel: "a", Data: []byte("1"), Meta: Meta{Info: &Info{ConnInfo: make([]byte, MaxInfoBytes+1)}}}, 106},
	} {
		err := n.Check(&c.m)
		var e *Error
		if errors.As(err, &e); c.code == 0 && err != nil || c.code != 0 && (e == nil || e.Code != c.code) {
			t.Errorf("%s: %v, want code %d", c.name, err, c.code)
		}
	}
}

func BenchmarkPublishKeyed(b *testing.B) {
	l, _ := newTestLog(b)
	p, _ := runPublisher(b, l)
	var n sync.Mutex
	i := 0
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.Lock()
			i++
			key := fmt.Sprint(i)
			n.Unlock()
			if _, err := p.Publish(context.Background(), keyed("room:1", "1", key)); err != nil {
				b.Error(err)
			}
		}
	})
}

// Who is told what became of a publish waits for no shard, which may be writing to thousands.
func TestTheEpochIsKnownWhileShardsWork(t *testing.T) {
	t.Parallel()
	n := newTestReplica(t, dbtest.New(t), nil).node
	want := n.hub.in[0].position().Epoch
	for _, s := range n.hub.shards {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	got := make(chan string, 1)
	go func() { got <- n.Epoch("room:1") }()
	select {
	case epoch := <-got:
		if epoch != want || epoch == "" {
			t.Errorf("%q, not %q", epoch, want)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits")
	}
}
