package realtime

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5/middleware"

	"forgewire/db/dbtest"
)

func TestBucket(t *testing.T) {
	var b bucket
	now := time.Now()
	allowed := func(n int) (count int) {
		for range n {
			if b.take(now, 10, 5) {
				count++
			}
		}
		return count
	}
	if n := allowed(8); n != 5 {
		t.Errorf("%d at once", n)
	}
	now = now.Add(time.Second) // 10 more, of which 3 pay the debt, and 5 fit
	if n := allowed(20); n != 5 {
		t.Errorf("%d after a second", n)
	}
	now = now.Add(time.Hour)
	if n := allowed(20); n != 5 {
		t.Errorf("%d after an hour", n)
	}
}

// A client that comes back subscribes to all that it may at once; one that floods is told to stop, and goes
// when it does not.
func TestCommandRate(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), "", func(c *Config) { c.CommandRate = 1 })
	w := joined(t, url, hs(joe()))
	pings := func(n int) []string {
		all := make([]string, n)
		for i := range all {
			all[i] = `"ping":{}`
		}
		return all
	}
	w.send(pings(maxChannelsPerClient)...)
	for range maxChannelsPerClient {
		if r, code := w.read(); code != 0 || r.Error != nil {
			t.Fatalf("%+v, %d", r.Error, code)
		}
	}
	w.send(pings(commandBurst - maxChannelsPerClient + 50)...)
	refused := 0
	for range commandBurst - maxChannelsPerClient + 50 {
		if r, _ := w.read(); r.Error != nil && r.Error.Code == 111 && r.Error.Temporary {
			refused++
		}
	}
	if refused < 40 || refused > 51 {
		t.Errorf("%d of about 50 were refused", refused)
	}
	w.send(pings(commandDebt + 50)...)
	w.wantClosed(3013)
}

func TestPublishRate(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), `{"namespaces":[{"name":"slow","publish_rate":2,"allow_publish_for_client":true},{"name":"free","allow_publish_for_client":true}]}`, nil)
	w := joined(t, url, hs(joe()))
	publish := func(channel string) string { return `"publish":{"channel":"` + channel + `","data":{}}` }
	start := time.Now()
	refused := 0
	for range 20 {
		if r := w.ask(publish("slow:1")); r.Error != nil && r.Error.Code == 111 {
			refused++
		}
		w.wantError(publish("free:1"), 0)
	}
	if most := 2 + int(2*time.Since(start).Seconds()) + 1; 20-refused > most || refused == 20 {
		t.Errorf("%d of 20 were published, at most %d may be", 20-refused, most)
	}
	eventually(t, 10*time.Second, "it goes on", func() bool { return w.ask(publish("slow:2")).Error == nil })
}

func TestUserConnections(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", func(c *Config) { c.MaxUserConnections, c.AllowAnonymous = 2, true })
	first := joined(t, url, hs(joe()))
	joined(t, url, hs(joe()))
	third := dialWire(t, url)
	third.send(connectAs(hs(joe())))
	third.wantClosed(3504)
	joined(t, url, hs(map[string]any{"sub": "jane"}))
	for range 3 {
		dialWire(t, url).wantError(`"connect":{}`, 0)
	}
	_ = first.ws.CloseNow()
	eventually(t, 10*time.Second, "the first is gone", func() bool { return len(n.hub.clientsOf("joe", "")) == 1 })
	eventually(t, 10*time.Second, "another may come", func() bool {
		w := dialWire(t, url)
		w.send(connectAs(hs(joe())))
		_, code := w.read()
		return code == 0
	})
	n.users.mu.Lock()
	defer n.users.mu.Unlock()
	if n.users.n["joe"] != 2 || n.users.n["jane"] != 1 || len(n.users.n) != 2 {
		t.Errorf("%v", n.users.n)
	}
}

func TestAddressLimits(t *testing.T) {
	t.Parallel()
	n, _ := startNode(t, dbtest.New(t), "", func(c *Config) { c.MaxIPConnections, c.MaxIPHandshakes = 2, 3 })
	server := httptest.NewServer(middleware.ClientIPFromHeader("Fly-Client-IP")(http.HandlerFunc(n.ServeWebSocket)))
	defer server.Close()
	open := func(address string) (*websocket.Conn, int) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		h := http.Header{"X-Forwarded-For": {"192.0.2.1"}}
		if address != "" {
			h.Set("Fly-Client-IP", address)
		}
		ws, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http"), &websocket.DialOptions{HTTPHeader: h}) //nolint:bodyclose // the library closes it
		if err != nil && resp == nil {
			t.Fatal(err)
		}
		return ws, resp.StatusCode
	}
	want := func(address string, status int) *websocket.Conn {
		t.Helper()
		ws, got := open(address)
		if got != status {
			t.Errorf("%s: %d, want %d", address, got, status)
		}
		return ws
	}
	first := want("2001:db8:1:1::1", 101)
	defer want("2001:db8:1:1::2", 101).CloseNow() //nolint:errcheck // the test ends
	want("2001:db8:1:1:ffff::3", 429)
	defer want("2001:db8:1:2::1", 101).CloseNow()  //nolint:errcheck // the test ends
	defer want("::ffff:192.0.2.7", 101).CloseNow() //nolint:errcheck // the test ends
	defer want("192.0.2.7", 101).CloseNow()        //nolint:errcheck // the test ends
	want("192.0.2.7", 429)
	defer want("", 101).CloseNow()        //nolint:errcheck // the test ends
	defer want("garbage", 101).CloseNow() //nolint:errcheck // the test ends
	want("", 429)                         // the peer's own address, which X-Forwarded-For does not change
	_ = first.CloseNow()
	eventually(t, 10*time.Second, "there is room again", func() bool {
		ws, status := open("2001:db8:1:1::4")
		if ws != nil {
			_ = ws.CloseNow()
		}
		return status == 101
	})

	// Handshakes a second: twice the rate at once, whatever became of them.
	refused := 0
	for range 12 {
		ws, status := open("198.51.100.1")
		if status == 429 {
			refused++
		}
		if ws != nil {
			_ = ws.CloseNow()
		}
	}
	if refused == 0 {
		t.Error("no handshake was refused")
	}
}

func BenchmarkThrottle(b *testing.B) {
	c := &client{node: &Node{cfg: Config{CommandRate: 1 << 30}}}
	b.ReportAllocs()
	for b.Loop() {
		if refused, _ := c.throttle(nil); refused {
			b.Fatal("refused")
		}
	}
}
