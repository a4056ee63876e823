package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

const testGrace = 200 * time.Millisecond

// echoReplica answers with its name, the host that it was asked for and what it was sent, and echoes what
// comes over a WebSocket. On closed it tells how each of its WebSockets ended.
func echoReplica(t *testing.T, name string, closed chan<- error) backend {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/connection/websocket" {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprintf(w, "%s %s %s %s %s", name, r.Host, r.Header.Get("X-Forwarded-For"), r.URL.Path, body)
			return
		}
		c, err := websocket.Accept(w, r, nil) // refuses an Origin that is not r.Host
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }() // fails if the connection has ended, as it mostly has
		for {
			kind, data, err := c.Read(context.Background())
			if err == nil {
				err = c.Write(context.Background(), kind, append([]byte(name+": "), data...))
			}
			if err != nil {
				closed <- err
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return backend{name: name, address: server.Listener.Addr().String()}
}

// deadReplica is where nobody listens.
func deadReplica(t *testing.T, name string) backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return backend{name: name, address: ln.Addr().String()}
}

// running is a balancer under test.
type running struct {
	host   string
	client *http.Client
	stop   context.CancelFunc // once is enough; the cleanup waits for the end
	ended  chan error
}

func startBalancer(t *testing.T, grace time.Duration, backends ...backend) *running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{
		host:   ln.Addr().String(),
		client: &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second},
		stop:   stop,
		ended:  make(chan error, 1),
	}
	b := newBalancer(backends, grace, slog.New(slog.DiscardHandler))
	go func() { r.ended <- b.Run(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := within(t, r.ended); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.client.CloseIdleConnections()
	})
	return r
}

// within receives from c, or fails the test.
func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(5 * time.Second):
		t.Fatal("nothing happened within 5 s")
		panic("not reached")
	}
}

// leaks checks, after all other cleanup, that no goroutine is left.
func leaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// reply is what came back through the balancer.
type reply struct {
	status  int
	replica string
	text    string
}

func (r *running) do(t *testing.T, method, path, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "203.0.113.9") // made up: the balancer is the edge, and must not believe it
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header.Get(replicaHeader), string(text)}
}

// dial opens a WebSocket, as a page served by the balancer would, and says hello.
func (r *running) dial(t *testing.T, query string) (*websocket.Conn, string) {
	t.Helper()
	//nolint:bodyclose // Dial's documentation: you never need to close it yourself
	c, res, err := websocket.Dial(t.Context(), "ws://"+r.host+"/connection/websocket"+query, &websocket.DialOptions{
		HTTPClient: r.client,
		HTTPHeader: http.Header{"Origin": {"http://" + r.host}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	r.hello(t, c)
	return c, res.Header.Get(replicaHeader)
}

// hello checks that c is alive.
func (r *running) hello(t *testing.T, c *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := c.Read(ctx); err != nil || !strings.HasSuffix(string(data), ": hello") {
		t.Fatalf("echo: %q, %v", data, err)
	}
}

func TestBalancerTakesTurns(t *testing.T) {
	leaks(t)
	r := startBalancer(t, testGrace, echoReplica(t, "a", nil), echoReplica(t, "b", nil))
	for i, want := range []string{"a", "b", "a", "b"} {
		got := r.do(t, http.MethodPost, "/api//publish?x=1", "body")
		if got.replica != want {
			t.Errorf("request %d: %s is %q, want %q", i, replicaHeader, got.replica, want)
		}
		if want := fmt.Sprintf("%s %s 127.0.0.1 /api//publish body", want, r.host); got.text != want {
			t.Errorf("request %d: the replica saw %q, want %q", i, got.text, want)
		}
	}
}

func TestBalancerObeysTheQuery(t *testing.T) {
	leaks(t)
	r := startBalancer(t, testGrace, echoReplica(t, "a", nil), echoReplica(t, "b", nil), deadReplica(t, "dead"))
	for range 3 {
		if got := r.do(t, http.MethodGet, "/?replica=b", ""); got.replica != "b" {
			t.Errorf("asked for b, got %+v", got)
		}
	}
	for _, name := range []string{"c", "dead"} {
		if got := r.do(t, http.MethodGet, "/?replica="+name, ""); got.status != http.StatusBadGateway {
			t.Errorf("asked for %s: %+v, want 502", name, got)
		}
	}
}

func TestBalancerPassesOverAReplicaThatRefuses(t *testing.T) {
	leaks(t)
	r := startBalancer(t, testGrace, deadReplica(t, "a"), echoReplica(t, "b", nil))
	for range 4 {
		got := r.do(t, http.MethodPost, "/api/publish", "the whole body")
		if got.replica != "b" || !strings.HasSuffix(got.text, " the whole body") {
			t.Errorf("got %+v, want b with the whole body", got)
		}
	}
}

func TestBalancerWithoutReplicas(t *testing.T) {
	leaks(t)
	r := startBalancer(t, testGrace, deadReplica(t, "a"), deadReplica(t, "b"))
	if got := r.do(t, http.MethodGet, "/", ""); got.status != http.StatusBadGateway {
		t.Errorf("got %+v, want 502", got)
	}
}

func TestBalancerCutsOnePane(t *testing.T) {
	leaks(t)
	closed := make(chan error, 4)
	r := startBalancer(t, testGrace, echoReplica(t, "a", closed), echoReplica(t, "b", closed))
	one, replica := r.dial(t, "?replica=b&pane=one")
	if replica != "b" {
		t.Errorf("the WebSocket is on %q, want b", replica)
	}
	two, _ := r.dial(t, "?replica=a&pane=two")

	for _, bad := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, cutPath + "?pane=one", http.StatusMethodNotAllowed},
		{http.MethodPost, cutPath, http.StatusBadRequest},
	} {
		if got := r.do(t, bad.method, bad.path, ""); got.status != bad.status {
			t.Errorf("%s %s: %+v, want %d", bad.method, bad.path, got, bad.status)
		}
	}
	for pane, want := range map[string]int{"nobody": 0, "one": 1} {
		got := r.do(t, http.MethodPost, cutPath+"?pane="+pane, "")
		var n map[string]int
		if err := json.Unmarshal([]byte(got.text), &n); err != nil || got.status != http.StatusOK || n["cut"] != want {
			t.Errorf("cut %s: %+v, %v, want %d cut", pane, got, err, want)
		}
	}

	// Neither end may see a closing handshake: it has to look like a failure of the network.
	_, _, err := one.Read(t.Context())
	for _, err := range []error{err, within(t, closed)} {
		if err == nil || websocket.CloseStatus(err) != -1 {
			t.Errorf("ended with %v, want an abrupt end", err)
		}
	}
	r.hello(t, two)
	again, _ := r.dial(t, "?replica=b&pane=one")
	r.hello(t, again)
}

func TestBalancerStops(t *testing.T) {
	leaks(t)
	t.Run("a client that leaves in time sees no failure", func(t *testing.T) {
		closed := make(chan error, 1)
		r := startBalancer(t, time.Minute, echoReplica(t, "a", closed))
		c, _ := r.dial(t, "")
		r.stop()
		for { // it accepts nothing more
			conn, err := net.Dial("tcp", r.host)
			if err != nil {
				break
			}
			conn.Close()
		}
		r.hello(t, c) // but serves what there is
		if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
			t.Error(err)
		}
		if err := within(t, closed); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("the replica saw %v, want the client's close frame", err)
		}
	})
	t.Run("one that stays is cut when the grace is over", func(t *testing.T) {
		closed := make(chan error, 1)
		r := startBalancer(t, testGrace, echoReplica(t, "a", closed))
		c, _ := r.dial(t, "")
		r.stop()
		if _, _, err := c.Read(t.Context()); err == nil {
			t.Error("the client was left connected")
		}
		_ = within(t, closed)
	})
}

func TestBalancerFailsWithItsListener(t *testing.T) {
	leaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	b := newBalancer(nil, testGrace, slog.New(slog.DiscardHandler))
	if err := b.Run(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v, want the listener's error", err)
	}
}
