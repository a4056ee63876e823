//go:build !race

// The published Go client has data races of its own when it reconnects.

package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	centrifuge "github.com/centrifugal/centrifuge-go"

	"forgewire/db/dbtest"
)

// Clients are told to go one after the other, over as much of the grace as they need, and never in a crowd.
func TestPublishedClientIsDismissed(t *testing.T) {
	for _, c := range []struct {
		n     int
		grace time.Duration
		spans time.Duration
	}{
		{0, time.Second, 0},
		{1, 10 * time.Second, dismissEvery},
		{1000, 10 * time.Second, 2 * time.Second},
		{19000, 10 * time.Second, 7500 * time.Millisecond},
		{19000, time.Millisecond, 750 * time.Microsecond},
	} {
		at := dismissals(c.n, c.grace, rand.Float64)
		if len(at) != c.n || !slices.IsSorted(at) {
			t.Fatalf("%d clients: %d times, sorted %t", c.n, len(at), slices.IsSorted(at))
		}
		if c.n == 0 {
			continue
		}
		if at[0] < 0 || at[c.n-1] > c.spans || c.n > 1 && at[c.n-1] < c.spans*9/10 {
			t.Errorf("%d clients in %v: from %v to %v, want up to %v", c.n, c.grace, at[0], at[c.n-1], c.spans)
		}
		tenth := c.spans / 10
		for from := time.Duration(0); from < c.spans; from += tenth {
			k := 0
			for _, d := range at {
				if d >= from && d < from+tenth {
					k++
				}
			}
			if k > c.n/10+3 {
				t.Errorf("%d clients in %v: %d of them within a tenth", c.n, c.grace, k)
			}
		}
	}
	if at := dismissals(2, time.Hour, func() float64 { return 0.5 }); at[0] != dismissEvery/2 || at[1] != dismissEvery*3/2 {
		t.Errorf("jitter moves a client in its own part: %v", at)
	}
}

// Streams get what waits, then the push that tells them to come back, and end; so does a stream of events.
func TestPublishedClientDrainsStreams(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), nil)
	s := openStream(t, "POST", r.url("/connection/http_stream"), `{"id":1,"connect":{}}`)
	s.reply()
	e := openStream(t, "GET", r.url("/events/a"), "")
	e.event()
	e.event()
	silent := dialRaw(t, r, "") // does not answer the close frame
	silent.connect()
	start := time.Now()
	r.stop()
	if d := time.Since(start); d > r.node.cfg.ShutdownTimeout+2*time.Second {
		t.Errorf("it took %v", d)
	}
	if reply := s.reply(); reply.Push == nil || reply.Push.Disconnect == nil || reply.Push.Disconnect.Code != 3001 {
		t.Errorf("%+v", reply)
	}
	s.ended()
	if got := e.event(); got != "event: end\ndata: {\"code\":3001,\"reason\":\"shutdown\"}\n" {
		t.Errorf("%q", got)
	}
	e.ended()
	if code := silent.closed(); code != 3001 {
		t.Errorf("closed with %d", code)
	}
}

// balancer passes connections to the replica that is up, as a load balancer does.
type balancer struct{ to atomic.Pointer[testReplica] }

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.to.Load().node.ServeWebSocket(w, r)
}

// A rolling restart under publishes loses nothing, doubles nothing, and changes no order, for the published
// client as it is.
func TestPublishedClientRollingRestart(t *testing.T) {
	t.Parallel()
	const clients, messages = 20, 300
	u := dbtest.New(t)
	a := newTestReplica(t, u, nil)
	b := newTestReplica(t, u, nil)
	var lb balancer
	lb.to.Store(a)
	srv := httptest.NewServer(&lb)
	t.Cleanup(srv.Close)
	all := make([]*goFollower, clients)
	for i := range all {
		all[i] = follow(t, srv, i%2 == 1)
	}
	publish := func(from, to int) {
		for n := from; n < to; n++ {
			must(b.node.Publish(t.Context(), message("room", n)))
		}
	}
	publish(0, 100)
	lb.to.Store(b)
	var wg sync.WaitGroup
	wg.Go(a.stop)
	publish(100, 200)
	wg.Wait()
	publish(200, messages)
	for i, f := range all {
		f.expect(t, fmt.Sprint("client ", i), messages)
		if n := f.connects.Load(); n != 2 {
			t.Errorf("client %d connected %d times", i, n)
		}
	}
}

// goFollower is the published Go client on one channel.
type goFollower struct {
	connects   atomic.Int32
	subscribed chan struct{}
	mu         sync.Mutex
	got        []int // guarded by mu
	gaps       int   // subscriptions that were not recovered, after the first
}

func follow(t testing.TB, srv *httptest.Server, binary bool) *goFollower {
	t.Helper()
	f := &goFollower{subscribed: make(chan struct{})}
	url := "ws" + strings.TrimPrefix(srv.URL, "http") + "/connection/websocket"
	cfg := centrifuge.Config{MinReconnectDelay: 10 * time.Millisecond, MaxReconnectDelay: 100 * time.Millisecond}
	c := centrifuge.NewJsonClient(url, cfg)
	if binary {
		c = centrifuge.NewProtobufClient(url, cfg)
	}
	t.Cleanup(c.Close)
	c.OnConnected(func(centrifuge.ConnectedEvent) { f.connects.Add(1) })
	sub := must(c.NewSubscription("room", centrifuge.SubscriptionConfig{Recoverable: true}))
	var once sync.Once
	sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		if e.WasRecovering && !e.Recovered {
			f.mu.Lock()
			f.gaps++
			f.mu.Unlock()
		}
		once.Do(func() { close(f.subscribed) })
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) {
		n, err := strconv.Atoi(string(e.Data))
		if err != nil {
			n = -1
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.got = append(f.got, n)
	})
	if err := sub.Subscribe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.subscribed:
	case <-time.After(20 * time.Second):
		t.Fatal("not subscribed")
	}
	return f
}

// expect waits until messages came, and asserts that they are 0, 1, 2 and so on.
func (f *goFollower) expect(t testing.TB, who string, messages int) {
	t.Helper()
	eventually(t, 30*time.Second, who+" has everything", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.got) >= messages
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, n := range f.got {
		if n != i {
			t.Fatalf("%s: message %d is %d", who, i, n)
		}
	}
	if len(f.got) != messages || f.gaps != 0 {
		t.Fatalf("%s: %d messages, %d gaps", who, len(f.got), f.gaps)
	}
}

// The published Go client works unchanged, in both forms of the protocol: what it asks for is answered, it
// recovers, and a ping is answered with a pong that counts.
func TestPublishedClientWorks(t *testing.T) {
	t.Parallel()
	for _, binary := range []bool{false, true} {
		t.Run(fmt.Sprint("protobuf ", binary), func(t *testing.T) {
			r := newTestReplica(t, dbtest.New(t), nil)
			url := "ws" + strings.TrimPrefix(r.http.URL, "http") + "/connection/websocket"
			cfg := centrifuge.Config{Token: must(SignToken(testSecret, "joe", time.Hour)), MinReconnectDelay: 10 * time.Millisecond, MaxReconnectDelay: 50 * time.Millisecond}
			c := centrifuge.NewJsonClient(url, cfg)
			if binary {
				c = centrifuge.NewProtobufClient(url, cfg)
			}
			t.Cleanup(c.Close)
			sub := must(c.NewSubscription("room", centrifuge.SubscriptionConfig{}))
			got := make(chan centrifuge.PublicationEvent, 10)
			sub.OnPublication(func(e centrifuge.PublicationEvent) { got <- e })
			if err := c.Connect(); err != nil {
				t.Fatal(err)
			}
			if err := sub.Subscribe(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			must(sub.Publish(ctx, []byte(`{"a":[1,"ü"]}`)))
			e := <-got
			if !json.Valid(e.Data) || !bytes.Equal(e.Data, []byte(`{"a":[1,"ü"]}`)) || e.Info == nil || e.Info.User != "joe" || e.Offset == 0 {
				t.Fatalf("%+v, %+v", e, e.Info)
			}
			h := must(sub.History(ctx, centrifuge.WithHistoryLimit(-1)))
			if len(h.Publications) != 1 || h.Offset != e.Offset || h.Epoch == "" {
				t.Fatalf("%+v", h)
			}
			if _, err := c.RPC(ctx, "none", nil); err == nil {
				t.Error("an RPC that nobody answers went well")
			}
			client := r.node.hub.all()[0]
			client.shard.mu.Lock()
			client.pingAt = client.shard.tick
			client.shard.mu.Unlock()
			client.shard.beat(time.Now())
			eventually(t, 20*time.Second, "the pong", client.ponged.Load)
			_ = client.out.Close() // the network fails
			must(r.node.Publish(ctx, message("room", 2)))
			if e := <-got; string(e.Data) != "2" {
				t.Fatalf("%s", e.Data)
			}
		})
	}
}
