package realtime

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"
)

// emulate sends commands for a stream to a replica and returns the status and the body.
func emulate(t testing.TB, r *testReplica, node, session, commands string) (int, string) {
	t.Helper()
	body := string(must(json.Marshal(map[string]string{"node": node, "session": session, "data": commands})))
	s := openStream(t, "POST", r.url("/emulation"), body, "Content-Type", "application/json")
	b := new(bytes.Buffer)
	_, _ = b.ReadFrom(s.resp.Body)
	return s.resp.StatusCode, b.String()
}

// Both streams carry the whole protocol, also when each command arrives at the other replica, and outlive the
// server's timeouts for requests.
func TestStreams(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	connect := `{"id":1,"connect":{}}`
	for name, s := range map[string]*testStream{
		"http_stream": openStream(t, "POST", a.url("/connection/http_stream"), connect),
		"sse":         openStream(t, "GET", a.url("/connection/sse?cf_connect="+url.QueryEscape(connect)), ""),
		"sse post":    openStream(t, "POST", a.url("/connection/sse"), connect),
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.status(http.StatusOK)
			for h, want := range map[string]string{"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform", "X-Content-Type-Options": "nosniff"} {
				if got := s.resp.Header.Get(h); got != want {
					t.Errorf("%s: %q", h, got)
				}
			}
			c := s.reply().Connect
			if c == nil || c.Session == "" || c.Session == c.Client || c.Node != a.node.id {
				t.Fatalf("connect: %+v", c)
			}
			for i, replica := range []*testReplica{a, b} {
				channel := fmt.Sprint(strings.ReplaceAll(name, " ", ""), i)
				if status, why := emulate(t, replica, c.Node, c.Session, fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q}}`, i+2, channel)); status != http.StatusNoContent {
					t.Fatal(status, why)
				}
				if r := s.reply(); r.ID != uint32(i+2) || r.Subscribe == nil {
					t.Fatalf("subscribe: %+v", r)
				}
				must(b.node.Publish(t.Context(), Message{Channel: channel, Data: []byte(`"x"`)}))
				if r := s.reply(); r.Push == nil || r.Push.Pub == nil || string(r.Push.Pub.Data) != `"x"` {
					t.Fatalf("publication: %+v", r)
				}
			}
			// Equal commands are not taken for one.
			for range 2 {
				emulate(t, b, c.Node, c.Session, `{"id":9,"ping":{}}`)
				if r := s.reply(); r.ID != 9 {
					t.Fatalf("ping: %+v", r)
				}
			}
			pause(t.Context(), 2100*time.Millisecond) // past the server's timeouts
			if status, why := emulate(t, b, c.Node, c.Session, `{"id":10,"connect":{}}`); status != http.StatusNoContent {
				t.Fatal(status, why)
			}
			if r := s.reply(); r.Push == nil || r.Push.Disconnect == nil || r.Push.Disconnect.Code != 3501 {
				t.Fatalf("a second connect: %+v", r)
			}
			s.ended()
			eventually(t, 20*time.Second, "the session is gone", func() bool {
				status, _ := emulate(t, a, c.Node, c.Session, "{}")
				return status == http.StatusNotFound
			})
		})
	}
}

func TestStreamProtobuf(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	const octets = "application/octet-stream"
	command := func(c *protocol.Command) []byte {
		return must(protocol.NewProtobufCommandEncoder().Encode(c))
	}
	s := openStream(t, "POST", a.url("/connection/http_stream"), string(command(&protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{}})), "Content-Type", octets)
	s.status(http.StatusOK)
	next := func() *protocol.Reply {
		n := must(binary.ReadUvarint(s.lines))
		data := make([]byte, n)
		for i := range data {
			data[i] = must(s.lines.ReadByte())
		}
		var r protocol.Reply
		if err := r.UnmarshalCF(data); err != nil {
			t.Fatal(err)
		}
		return &r
	}
	c := next().Connect
	for i, replica := range []*testReplica{a, b} {
		e := protocol.EmulationRequest{Node: c.Node, Session: c.Session, Data: append([]byte{0}, command(&protocol.Command{Id: uint32(2 + i), Ping: &protocol.PingRequest{}})...)}
		r := openStream(t, "POST", replica.url("/emulation"), string(must(e.MarshalCF())), "Content-Type", octets)
		r.status(http.StatusNoContent)
		if reply := next(); reply.Id != uint32(2+i) || reply.Ping == nil {
			t.Fatalf("%v", reply)
		}
	}
	for _, cl := range a.node.hub.all() {
		if !cl.ponged.Load() {
			t.Error("the pong in front of the ping was not seen")
		}
	}
}

// What is not a command of ours is refused, and told to nobody.
func TestStreamRefusals(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, func(c *Config) { c.MaxConnections, c.AllowedOrigins = 1, []string{"*.example.com"} })
	s := openStream(t, "POST", a.url("/connection/http_stream"), `{"id":1,"connect":{}}`)
	c := s.reply().Connect
	id := "3c9f4a3e-0000-4000-8000-000000000000"
	for _, test := range []struct {
		name          string
		r             *testReplica
		node, session string
		data          string
		status        int
		why           string
	}{
		{"no such session", a, c.Node, id, "{}", 404, "gone"},
		{"not a node", a, "x", id, "{}", 400, "node and session"},
		{"a urn", a, "urn:uuid:" + id, id, "{}", 400, "node and session"},
		{"not a session", b, c.Node, "'; drop", "{}", 400, "node and session"},
		{"nothing", a, c.Node, c.Session, "", 400, "data is empty"},
		{"too large for another replica", b, c.Node, c.Session, strings.Repeat("x", maxForwarded+1), 413, "another replica"},
		{"too large", a, c.Node, c.Session, strings.Repeat("x", 1<<20+4097), 413, "too large"},
		{"far too large", a, c.Node, c.Session, strings.Repeat("x", 3<<20), 413, "too large"},
	} {
		if status, why := emulate(t, test.r, test.node, test.session, test.data); status != test.status || !strings.Contains(why, test.why) {
			t.Errorf("%s: %d %s", test.name, status, why)
		}
	}
	long := strings.Repeat("x", maxFirstCommands+1)
	for _, test := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
	}{
		{"no JSON", "POST", "/emulation", "{", nil, 400},
		{"no Protobuf", "POST", "/emulation", "\xff", []string{"Content-Type", "application/octet-stream"}, 400},
		{"no command", "GET", "/connection/sse", "", nil, 400},
		{"an empty command", "POST", "/connection/http_stream", " ", nil, 400},
		{"a large first command", "POST", "/connection/http_stream", long, nil, 413},
		{"a large first command", "POST", "/connection/sse", long, nil, 413},
		{"over the limit", "POST", "/connection/sse", "{}", nil, 503},
		{"another site", "POST", "/connection/http_stream", "{}", []string{"Origin", "https://evil.test"}, 403},
		{"another site", "GET", "/connection/sse?cf_connect={}", "", []string{"Origin", "https://evil.test"}, 403},
		{"another site", "POST", "/emulation", "{}", []string{"Origin", "https://evil.test"}, 403},
		{"another site", "GET", "/events/a", "", []string{"Origin", "null"}, 403},
		{"another site", "OPTIONS", "/emulation", "", []string{"Origin", "https://example.com"}, 403},
		{"another site's image", "GET", "/connection/sse?cf_connect={}", "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another site's link", "GET", "/events/a", "", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a page of ours", "GET", "/connection/sse", "", []string{"Sec-Fetch-Site", "same-origin"}, 400},
		{"an allowed site", "OPTIONS", "/emulation", "", []string{"Origin", "https://WWW.example.com"}, 204},
	} {
		r := openStream(t, test.method, a.url(test.path), test.body, test.header...)
		body := r.status(test.status)
		if test.status != 204 && !json.Valid([]byte(body)) {
			t.Errorf("%s: %s", test.name, body)
		}
		if allowed := r.resp.Header.Get("Access-Control-Allow-Origin"); (test.status == 204) != (allowed != "") {
			t.Errorf("%s: allowed origin %q", test.name, allowed)
		}
	}
	a.node.sessions.large.Store(maxLargeBodies)
	if status, why := emulate(t, a, c.Node, c.Session, strings.Repeat(" ", maxFirstCommands)); status != 503 {
		t.Errorf("one large body too many: %d %s", status, why)
	}
	if status, why := emulate(t, a, c.Node, c.Session, `{"id":2,"ping":{}}`); status != 204 {
		t.Errorf("a small one: %d %s", status, why)
	}
	s.cancel()
	eventually(t, 20*time.Second, "a client that is gone is noticed", func() bool { return a.node.Info().Clients == 0 })
}

// A pong comes as a command; who sends none is told to go, and so is one that floods.
func TestStreamLiveness(t *testing.T) {
	t.Parallel()
	a, _ := twoReplicas(t, nil)
	s := openStream(t, "GET", a.url("/connection/sse?cf_connect="+url.QueryEscape(`{"id":1,"connect":{}}`)), "")
	c := s.reply().Connect
	client := a.node.hub.all()[0]
	ping := func() {
		client.shard.mu.Lock()
		client.pingAt = client.shard.tick
		client.shard.mu.Unlock()
		client.shard.beat(time.Now())
	}
	overdue := func() {
		for range pongTimeout {
			client.shard.beat(time.Now())
		}
	}
	s.event() // the rest of the reply
	ping()
	if line := s.event(); line != "data: {}\n" {
		t.Fatalf("%q is not a ping", line)
	}
	emulate(t, a, c.Node, c.Session, "{}")
	eventually(t, 20*time.Second, "the pong is seen", client.ponged.Load)
	overdue()
	if client.ended.Load() || a.node.Info().Clients != 1 {
		t.Fatal("it answered")
	}
	ping()
	overdue()
	for {
		if r := s.reply(); r.Push != nil {
			if r.Push.Disconnect.Code != disconnectNoPong.Code {
				t.Fatalf("%+v", r.Push.Disconnect)
			}
			break
		}
	}
	s.ended()
}

func TestSessionFlood(t *testing.T) {
	t.Parallel()
	out := newStream(&blockedWriter{}, streamJSON)
	c := newClient(&Node{hub: newHub(1)}, out, streamJSON)
	var all sessions
	secret := all.open(t.Context(), c)
	one := all.by[secret]
	one.running = true // busy for ever
	for range maxSessionCommands {
		all.deliver(secret, []byte("x"))
	}
	if c.ended.Load() {
		t.Fatal("too early")
	}
	all.deliver(secret, []byte("x"))
	if out.why != disconnectTooMany || len(one.queue) != maxSessionCommands {
		t.Fatal("the queue is not bounded")
	}
	all.close(secret)
	if all.deliver(secret, []byte("x")) || len(all.by) != 0 {
		t.Fatal("it is still there")
	}
}

// blockedWriter takes nothing until its write deadline is over.
type blockedWriter struct {
	http.ResponseWriter
	deadline chan time.Time
	entered  chan struct{}
}

func (w *blockedWriter) Write([]byte) (int, error) {
	close(w.entered)
	for d := range w.deadline {
		if d.Before(time.Now()) {
			return 0, errors.New("deadline")
		}
	}
	return 0, nil
}
func (w *blockedWriter) Flush() {}
func (w *blockedWriter) SetWriteDeadline(d time.Time) error {
	if w.deadline != nil {
		w.deadline <- d
	}
	return nil
}

// What waits for a client that does not read is bounded, and shared frames are not copied; the client is
// disconnected as slow without anybody waiting for it.
func TestStreamSlow(t *testing.T) {
	t.Parallel()
	w := &blockedWriter{deadline: make(chan time.Time, 8), entered: make(chan struct{})}
	s := newStream(w, streamJSON)
	big := bytes.Repeat([]byte("x"), maxPending/4)
	if err := s.send(big, maxPending); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.run(context.Background(), w) }()
	<-w.entered
	for range 3 {
		if err := s.send(big, maxPending); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.send(big, maxPending); !errors.Is(err, errSlow) {
		t.Fatalf("what is being written does not count: %v", err)
	}
	if !s.disconnect(disconnectSlow) || s.disconnect(disconnectSlow) {
		t.Fatal("disconnect must happen once")
	}
	if len(s.queue) != 1 || s.send(big, maxPending) != nil || len(s.queue) != 1 {
		t.Fatal("only the push waits")
	}
	_ = s.Close()
	if err := <-done; err == nil {
		t.Fatal("the write goes on")
	}
	s.end()
	if err := s.send(big, maxPending); err == nil {
		t.Fatal("an ended stream takes something")
	}
}
