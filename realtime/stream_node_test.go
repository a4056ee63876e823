package realtime

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// testReplica is a Node with its routes.
type testReplica struct {
	node *Node
	http *httptest.Server
	stop func() // as SIGTERM does, and waits
}

func (r *testReplica) url(path string) string { return r.http.URL + path }

// newTestReplica runs a Node on a database, behind all of its ways in, until the test ends.
func newTestReplica(t testing.TB, databaseURL string, change func(*Config), prepare ...func(*Node)) *testReplica {
	t.Helper()
	cfg := Config{Pool: must(db.NewPool(context.Background(), db.PoolConfig{URL: databaseURL})), ListenURL: databaseURL,
		Logger: slog.New(slog.DiscardHandler), Version: "test",
		Tokens: TokenConfig{Secret: testSecret}, AllowAnonymous: true, MaxConnections: 1000, MaxPublicationBytes: 1 << 20,
		Namespaces:   must(ParseNamespaces(`{"without_namespace":{"allow_publish_for_client":true},"namespaces":[{"name":"eph","ephemeral":true}]}`)),
		RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: 5 * time.Second}
	if change != nil {
		change(&cfg)
	}
	return runReplica(t, cfg, allWaysIn, prepare...)
}

// runReplica runs a Node until the test ends, or stop is called, and then closes its pool. serve, if not nil, makes the
// server in front of it.
func runReplica(t testing.TB, cfg Config, serve func(*Node) *httptest.Server, prepare ...func(*Node)) *testReplica {
	t.Helper()
	n := must(New(cfg))
	for _, f := range prepare {
		f(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &testReplica{node: n}
	if serve != nil {
		r.http = serve(n)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if r.http != nil {
			r.http.Close()
		}
		cfg.Pool.Close()
	})
	t.Cleanup(r.stop)
	eventually(t, 20*time.Second, "the replica is ready", func() bool { return n.Ready(context.Background()) == nil && n.Epoch("") != "" })
	return r
}

func webSocketOnly(n *Node) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(n.ServeWebSocket))
}

// webSocketURL is for replicas that serve nothing else.
func (r *testReplica) webSocketURL() string { return "ws" + strings.TrimPrefix(r.http.URL, "http") }

func allWaysIn(n *Node) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connection/websocket", n.ServeWebSocket)
	mux.HandleFunc("GET /connection/sse", n.ServeSSE)
	mux.HandleFunc("POST /connection/sse", n.ServeSSE)
	mux.HandleFunc("POST /connection/http_stream", n.ServeHTTPStream)
	mux.HandleFunc("POST /emulation", n.ServeEmulation)
	mux.HandleFunc("GET /events/{channel}", func(w http.ResponseWriter, r *http.Request) { n.ServeEvents(w, r, r.PathValue("channel")) })
	mux.HandleFunc("OPTIONS /", n.ServePreflight)
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 2*time.Second, 2*time.Second // streams outlive them
	srv.Config.IdleTimeout = time.Minute                                           // else ReadTimeout: a POST on a connection that was just closed is not sent again
	srv.Start()
	return srv
}

// twoReplicas run on one database.
func twoReplicas(t testing.TB, change func(*Config)) (a, b *testReplica) {
	t.Helper()
	u := dbtest.New(t)
	return newTestReplica(t, u, change), newTestReplica(t, u, change)
}

// testStream is a response that does not end.
type testStream struct {
	t      testing.TB
	resp   *http.Response
	lines  *bufio.Reader
	cancel context.CancelFunc
}

// openStream sends a request; header is pairs.
func openStream(t testing.TB, method, url, body string, header ...string) *testStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	req := must(http.NewRequestWithContext(ctx, method, url, strings.NewReader(body)))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	return &testStream{t: t, resp: resp, lines: bufio.NewReader(resp.Body), cancel: cancel}
}

// status asserts on the response's status, and returns the whole body of one that is no stream.
func (s *testStream) status(want int) string {
	s.t.Helper()
	body := ""
	if s.resp.StatusCode != http.StatusOK || want != http.StatusOK {
		body = string(must(io.ReadAll(s.resp.Body)))
	}
	if s.resp.StatusCode != want {
		s.t.Fatalf("status %d, want %d: %s", s.resp.StatusCode, want, body)
	}
	return body
}

// event reads the next block of server-sent events that is not a ping, without its blank line.
func (s *testStream) event() string {
	s.t.Helper()
	var b strings.Builder
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the stream ended after %q: %v", b.String(), err)
		}
		switch {
		case line != "\n":
			b.WriteString(line)
		case b.String() == ":\n":
			b.Reset()
		default:
			return b.String()
		}
	}
}

// reply reads the next reply of either JSON stream that is not a ping.
func (s *testStream) reply() testReply {
	s.t.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the stream ended: %v", err)
		}
		var r testReply
		if line == "\n" {
			continue
		}
		if err = json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &r); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		if r != (testReply{}) {
			return r
		}
	}
}

// ended asserts that nothing follows.
func (s *testStream) ended() {
	s.t.Helper()
	if rest, err := io.ReadAll(s.lines); err != nil || strings.TrimSpace(string(rest)) != "" {
		s.t.Fatalf("the stream goes on with %q, %v", rest, err)
	}
}

type testReply struct {
	ID      uint32 `json:"id"`
	Error   *Error `json:"error"`
	Connect *struct{ Client, Session, Node string }
	Publish *struct{}
	Push    *struct {
		Channel    string
		Pub        *struct{ Data json.RawMessage }
		Disconnect *Disconnect
	}
	Subscribe *struct{ Recovered bool }
}

// A panic of what one client asks for is that client's end, in whichever goroutine, and nobody else's.
func TestCommandThatPanics(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), nil, func(n *Node) { n.OnJoin("boom", func(string) { panic("boom") }) })
	at := r.webSocketURL() + "/connection/websocket"
	stays, goes := joined(t, at, ""), joined(t, at, "")
	goes.send(subscribeTo("boom:1", ""))
	goes.wantClosed(3510)
	s := openStream(t, "GET", r.url("/connection/sse?cf_connect="+url.QueryEscape(`{"id":1,"connect":{}}`)), "")
	c := s.reply().Connect
	emulate(t, r, c.Node, c.Session, `{"id":2,"subscribe":{"channel":"boom:2"}}`)
	for {
		if p := s.reply().Push; p != nil {
			if p.Disconnect.Code != 3510 {
				t.Errorf("%+v", p.Disconnect)
			}
			break
		}
	}
	stays.wantError(`"ping":{}`, 0)
	eventually(t, 10*time.Second, "both are counted", func() bool { return r.node.Stats().Connections.Disconnects[3510] == 2 })
}
