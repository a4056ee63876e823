package realtime

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"forgewire/db/dbtest"
)

// rawSocket is a client that sends what it likes.
type rawSocket struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	resp *http.Response
}

func dialRaw(t testing.TB, r *testReplica, header string) *rawSocket {
	t.Helper()
	conn := must(net.Dial("tcp", r.http.Listener.Addr().String()))
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", header)
	s := &rawSocket{t: t, conn: conn, r: bufio.NewReader(conn)}
	s.resp = must(http.ReadResponse(s.r, nil)) //nolint:bodyclose // a 101 has none
	if s.resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", s.resp.StatusCode)
	}
	return s
}

// frame sends a masked frame, with a mask of zeros.
func (s *rawSocket) frame(op byte, payload string) error {
	b := frame(op, []byte(payload))
	head := len(b) - len(payload)
	b[1] |= 0x80
	b = append(append(bytes.Clone(b[:head]), 0, 0, 0, 0), payload...)
	_, err := s.conn.Write(b)
	return err
}

// closed reads until the server's close frame and returns its code.
func (s *rawSocket) closed() uint16 {
	s.t.Helper()
	for {
		op, p, err := readFrame(s.r)
		if err != nil {
			s.t.Fatalf("no close frame: %v", err)
		}
		if op == opClose {
			return binary.BigEndian.Uint16(p)
		}
	}
}

func (s *rawSocket) connect() {
	s.t.Helper()
	_ = s.frame(opText, `{"id":1,"connect":{}}`)
	if _, p, err := readFrame(s.r); err != nil || !bytes.Contains(p, []byte(`"connect"`)) {
		s.t.Fatalf("connect: %s, %v", p, err)
	}
}

// Every attack ends with the code that says why, and a bystander notices nothing. With TestFragments these are the cases
// of the Autobahn suite that a server can meet: its sections 1 (sizes), 2 (pings), 3 (reserved bits), 4 (opcodes), 5
// (fragments), 6 (UTF-8), 7 (closing) and 9 (limits). In two things the answer is another than Autobahn's: what is no
// UTF-8 ends with the protocol's 3501 rather than with 1007, and the reason of a client's close is not looked at
// (coder/websocket does not, and nobody reads it).
func TestAttacks(t *testing.T) {
	t.Parallel()
	eachReader(t, testAttacks)
}

func testAttacks(t *testing.T, r *testReplica) {
	bystander := dialRaw(t, r, "")
	bystander.connect()
	const fin, ping, pongOp, more = 0x80, 0x09, 0x0a, 0x00
	for name, c := range map[string]struct {
		header string
		attack func(s *rawSocket)
		code   uint16
	}{
		"pings": {"", func(s *rawSocket) {
			for range 50 * maxControls {
				if s.frame(fin|ping, "x") != nil {
					return
				}
			}
		}, 3013},
		"pongs": {"", func(s *rawSocket) {
			for range 50 * maxControls {
				if s.frame(fin|pongOp, "") != nil {
					return
				}
			}
		}, 3013},
		"fragments": {"", func(s *rawSocket) {
			_ = s.frame(0x01, "{")
			for range maxFragments + 1 {
				_ = s.frame(more, " ")
			}
		}, 3501},
		"compression": {"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", func(s *rawSocket) {
			if e := s.resp.Header.Get("Sec-WebSocket-Extensions"); e != "" {
				t.Errorf("%q was accepted", e)
			}
			_ = s.frame(opText|0x40, "\xaa\x56\x4a\x01\x00")
		}, 1002},
		"too large before connect": {"", func(s *rawSocket) { _ = s.frame(opText, strings.Repeat(" ", maxUnconnected+1)) }, 1009},
		"connected, too large":     {"", func(s *rawSocket) { _ = s.frame(opText, strings.Repeat(" ", 1<<20+4097)) }, 1009},
		"connected, large":         {"", func(s *rawSocket) { _ = s.frame(opText, strings.Repeat(" ", maxUnconnected+1)+"x") }, 3501},
		"binary":                   {"", func(s *rawSocket) { _ = s.frame(opBinary, "{ }") }, 3501},
		"text where binary":        {"Sec-WebSocket-Protocol: centrifuge-protobuf\r\n", func(s *rawSocket) { _ = s.frame(opText, "{}") }, 3501},
		"no Protobuf":              {"Sec-WebSocket-Protocol: centrifuge-protobuf\r\n", func(s *rawSocket) { _ = s.frame(opBinary, "\xff\xff") }, 3501},
		"a large ping":             {"", func(s *rawSocket) { _ = s.frame(fin|ping, strings.Repeat("x", 126)) }, 1002},
		"a fragmented ping":        {"", func(s *rawSocket) { _ = s.frame(ping, "x") }, 1002},
		"a reserved opcode":        {"", func(s *rawSocket) { _ = s.frame(fin|0x03, "") }, 1002},
		"a message in a message":   {"", func(s *rawSocket) { _ = s.frame(0x01, "{"); _ = s.frame(opText, "{}") }, 1002},
		"no UTF-8":                 {"", func(s *rawSocket) { _ = s.frame(opText, "{\"id\":1,\"connect\":{\"name\":\"\xff\"}}\xff") }, 3501},
		"half of a character": {"", func(s *rawSocket) {
			_ = s.frame(0x01, "{\"id\":1,\"connect\":{\"name\":\"\xc3")
			_ = s.frame(fin, "\"}}")
		}, 3501},
		"a surrogate":               {"", func(s *rawSocket) { _ = s.frame(opText, "{\"id\":1,\"connect\":{\"name\":\"\xed\xa0\x80\"}}") }, 3501},
		"a close with a large word": {"", func(s *rawSocket) { _ = s.frame(opClose, "\x03\xe8"+strings.Repeat("x", 124)) }, 1002},
		"a close code below all":    {"", func(s *rawSocket) { _ = s.frame(opClose, "\x03\xe7") }, 1002},
		"a close code above all":    {"", func(s *rawSocket) { _ = s.frame(opClose, "\x13\x88") }, 1002},
		"a close code of ours":      {"", func(s *rawSocket) { _ = s.frame(opClose, "\x0d\xaf") }, 3503},
		"a close code of nobody":    {"", func(s *rawSocket) { _ = s.frame(opClose, "\x03\xec") }, 1002},
		"half a close code":         {"", func(s *rawSocket) { _ = s.frame(opClose, "\x03") }, 1002},
		"a reserved bit":            {"", func(s *rawSocket) { _ = s.frame(opText|0x20, "{}") }, 1002},
		"another reserved bit":      {"", func(s *rawSocket) { _ = s.frame(opText|0x10, "{}") }, 1002},
		"connected, send":           {"", func(s *rawSocket) { _ = s.frame(opText, `{"send":{"data":{}}}`) }, 3508},
		"a close":                   {"", func(s *rawSocket) { _ = s.frame(opClose, "\x03\xe8bye") }, 1000},
		"a continuation of nothing": {"", func(s *rawSocket) { _ = s.frame(fin, "x") }, 1002},
	} {
		t.Run(name, func(t *testing.T) {
			s := dialRaw(t, r, c.header)
			s.t = t
			if strings.HasPrefix(name, "connected") {
				s.connect()
			}
			go c.attack(s) // the server may stop reading
			if code := s.closed(); code != c.code {
				t.Errorf("closed with %d, want %d", code, c.code)
			}
		})
	}
	_ = bystander.frame(opText, `{"id":2,"ping":{}}`)
	for {
		_, p, err := readFrame(bystander.r)
		if err != nil {
			t.Fatalf("the bystander was hurt: %v", err)
		}
		if bytes.Contains(p, []byte(`"id":2`)) {
			return
		}
	}
}

// A message may come in fragments, with control frames between them, and in every size of length field.
func TestFragments(t *testing.T) {
	t.Parallel()
	eachReader(t, testFragments)
}

func testFragments(t *testing.T, r *testReplica) {
	s := dialRaw(t, r, "")
	_ = s.frame(0x01, "{\"id\":1,\"connect\":{\"name\":\"\xc3") // the first half of an é
	_ = s.frame(0x80|0x09, "beat")
	_ = s.frame(0x00, "")
	_ = s.frame(0x80, "\xa9\"}}")
	answered := map[string]bool{}
	for len(answered) < 2 {
		op, p, err := readFrame(s.r)
		switch {
		case err != nil:
			t.Fatal(err)
		case op == 0x80|0x0a && string(p) == "beat":
			answered["pong"] = true
		case bytes.Contains(p, []byte(`"connect"`)):
			answered["connect"] = true
		}
	}
	unmasked := dialRaw(t, r, "")
	_, _ = unmasked.conn.Write([]byte{opText, 2, '{', '}'})
	if _, _, err := readFrame(unmasked.r); !errors.Is(err, io.EOF) {
		t.Errorf("an unmasked frame is answered, and %v", err)
	}
	for _, size := range []int{0, 125, 126, 65535, 65536} {
		command := fmt.Sprintf(`{"id":2,"ping":{}%s}`, strings.Repeat(" ", size))
		_ = s.frame(opText, command)
		if _, p, err := readFrame(s.r); err != nil || !bytes.Contains(p, []byte(`"id":2`)) {
			t.Errorf("%d bytes: %s, %v", len(command), p, err)
		}
	}
}

// A message whose payload never comes, or comes in empty fragments for ever, and a connection that never says
// connect, end without a timer each.
func TestSlowloris(t *testing.T) {
	t.Parallel()
	eachReader(t, testSlowloris)
}

func testSlowloris(t *testing.T, r *testReplica) {
	only := func() *client {
		var c *client
		eventually(t, 20*time.Second, "one client is there", func() bool {
			all := r.node.hub.all()
			if len(all) == 1 {
				c = all[0]
			}
			return c != nil
		})
		return c
	}
	for name, c := range map[string]struct {
		attack func(s *rawSocket)
		code   uint16
		ticks  int
	}{
		"a payload that never comes": {func(s *rawSocket) { s.connect(); _, _ = s.conn.Write([]byte{opText, 0x8a, 0, 0, 0, 0, '{'}) }, 3501, maxMessageTicks + 1},
		"half a header":              {func(s *rawSocket) { s.connect(); _, _ = s.conn.Write([]byte{opText}) }, 3501, maxMessageTicks + 1},
		"half of a second":           {func(s *rawSocket) { s.connect(); _, _ = s.conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0, opText}) }, 3501, maxMessageTicks + 1},
		"half a ping":                {func(s *rawSocket) { s.connect(); _, _ = s.conn.Write([]byte{0x89, 0x82, 0, 0, 0, 0, 'x'}) }, 3501, maxMessageTicks + 1},
		"empty fragments": {func(s *rawSocket) {
			s.connect()
			_ = s.frame(0x01, "")
			go func() {
				for s.frame(0x00, "") == nil {
				}
			}()
		}, 3501, maxMessageTicks + 1},
		"half open": {func(*rawSocket) {}, 3502, staleTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			s := dialRaw(t, r, "")
			s.t = t
			c.attack(s)
			client := only()
			if c.code == 3501 {
				eventually(t, 20*time.Second, "the message began", func() bool { return client.guard.begun.Load()%2 == 1 })
			}
			client.shard.mu.Lock()
			client.pingAt = client.shard.tick + 1000 // the pong that it could not send is not what ends it
			client.shard.mu.Unlock()
			for range c.ticks {
				client.shard.beat(time.Now())
			}
			if code := s.closed(); code != c.code {
				t.Errorf("closed with %d, want %d", code, c.code)
			}
			s.conn.Close()
			eventually(t, 20*time.Second, "nothing is left of it", func() bool { return r.node.Info().Clients == 0 })
		})
	}
}

func TestGuard(t *testing.T) {
	var g guard
	for range 3 * maxMessageTicks { // busy, but never long with the same message
		g.begin()
		if d := g.beat(); d != nil {
			t.Fatal(d)
		}
		g.end()
	}
	for range maxControls {
		if g.control() {
			t.Fatal("too early")
		}
	}
	if !g.control() {
		t.Fatal("not bounded")
	}
	if d := g.beat(); d != nil || g.control() {
		t.Fatal("a second later it begins anew")
	}
}

// What a client asks for after it was told to go is too late.
func TestLeaving(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), nil)
	s := dialRaw(t, r, "")
	s.connect()
	r.node.hub.all()[0].disconnect(disconnectForced)
	_ = s.frame(opText, `{"id":2,"publish":{"channel":"a","data":1}}`)
	if code := s.closed(); code != 3503 {
		t.Fatal(code)
	}
	_ = s.frame(opClose, "\x0d\xaf")
	eventually(t, 20*time.Second, "it is gone", func() bool { return r.node.Info().Clients == 0 })
	if h := must(r.node.History(t.Context(), "a", HistoryFilter{Limit: -1})); len(h.Messages) != 0 {
		t.Fatal("it published")
	}
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), func(c *Config) { c.MaxConnections = 1 })
	first := dialRaw(t, r, "")
	first.connect()
	if code := dialRaw(t, r, "").closed(); code != 1013 {
		t.Fatalf("closed with %d", code)
	}
	first.conn.Close()
	eventually(t, 20*time.Second, "there is room again", func() bool { return r.node.Info().Clients == 0 })
	dialRaw(t, r, "").connect()
}

// One subscriber that never reads is disconnected, and the others get everything in time.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	const others, messages = 20, 48
	r := newTestReplica(t, dbtest.New(t), nil)
	bad := dialRaw(t, r, "")
	_ = bad.conn.(*net.TCPConn).SetReadBuffer(4096)
	bad.connect()
	_ = bad.frame(opText, `{"id":2,"subscribe":{"channel":"a"}}`)
	got := make(chan error, others)
	for range others {
		s := dialRaw(t, r, "")
		s.connect()
		_ = s.frame(opText, `{"id":2,"subscribe":{"channel":"a"}}`)
		go func() { got <- s.count(messages) }()
	}
	eventually(t, 20*time.Second, "all are subscribed", func() bool { return must(r.node.Channels(t.Context(), ""))["a"] == others+1 })
	data := []byte(`"` + strings.Repeat("x", 128<<10) + `"`)
	for range messages { // 6 MB: more than the kernel's buffers hold
		must(r.node.Publish(t.Context(), Message{Channel: "a", Data: data}))
	}
	for range others {
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "the one that does not read is gone", func() bool { return r.node.Info().Clients <= others })
	r.node.stats.disconnects.mu.Lock()
	defer r.node.stats.disconnects.mu.Unlock()
	if n := r.node.stats.disconnects.by[3008]; n != 1 {
		t.Errorf("%d were slow", n)
	}
}

// count reads n publications.
func (s *rawSocket) count(n int) error {
	for n > 0 {
		op, p, err := readFrame(s.r)
		if err != nil || op == opClose {
			return errors.Join(fmt.Errorf("%d are missing: %q", n, p), err)
		}
		if bytes.Equal(p, pong) {
			_ = s.frame(opText, "{}")
		}
		n -= bytes.Count(p, []byte(`"pub":`))
	}
	return nil
}

// With TLS in the process there is no file descriptor to write to: the same client sees no difference.
func TestTLS(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), nil)
	srv := httptest.NewTLSServer(http.HandlerFunc(r.node.ServeWebSocket))
	t.Cleanup(srv.Close)
	hc := srv.Client()
	hc.Transport.(*http.Transport).TLSClientConfig.NextProtos = nil
	ws, _, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{HTTPClient: hc, CompressionMode: websocket.CompressionContextTakeover}) //nolint:bodyclose // none
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow() //nolint:errcheck // the connection is over
	ws.SetReadLimit(64 << 20)
	if err = ws.Write(t.Context(), websocket.MessageText, []byte("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it is subscribed", func() bool { return must(r.node.Channels(t.Context(), ""))["a"] == 1 })
	if _, ok := r.node.hub.all()[0].out.(*conn).Conn.(*tls.Conn); !ok || r.node.hub.all()[0].out.(*conn).raw != nil {
		t.Fatal("this is not the portable path")
	}
	const n = 40
	go func() {
		for range n {
			if _, err := r.node.Publish(context.Background(), Message{Channel: "a", Data: []byte(`"` + strings.Repeat("x", 20<<10) + `"`)}); err != nil {
				t.Error(err)
			}
		}
	}()
	for seen := 0; seen < n; {
		_, p, err := ws.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen += strings.Count(string(p), `"pub":`)
	}
	r.node.hub.all()[0].disconnect(disconnectForced)
	for err == nil {
		_, _, err = ws.Read(t.Context())
	}
	if code := websocket.CloseStatus(err); code != 3503 && !errors.Is(err, io.EOF) {
		t.Fatalf("closed with %v", err)
	}
}
