package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const plainHandshake = "GET /connection/websocket?cf_protocol=protobuf HTTP/1.1\r\nHost: example.com:8000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: b, c\r\n\r\n"

// serving serves behind handshakes until t ends.
func serving(t *testing.T, server *http.Server) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(newHandshakes(ln, server)) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// greeted serves a handler.
func greeted(t *testing.T, timeout time.Duration, handler http.HandlerFunc) *greeting {
	t.Helper()
	g := &greeting{Server: http.Server{ReadHeaderTimeout: timeout, ErrorLog: log.New(io.Discard, "", 0)}}
	g.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(http.ServerContextKey) == nil {
			g.direct.Add(1)
		}
		handler(w, r)
	})
	g.ConnState = func(conn net.Conn, s http.ConnState) {
		if n, _ := g.begun.LoadOrStore(conn.RemoteAddr().String(), new(atomic.Int64)); s == http.StateNew {
			n.(*atomic.Int64).Add(1)
		}
	}
	g.address = serving(t, &g.Server)
	return g
}

type greeting struct {
	http.Server
	address string
	direct  atomic.Int64 // requests that net/http did not have
	begun   sync.Map     // by the client's address, how often its connection was new: a second time to net/http
}

// awaitHanded waits until net/http has a client's connection.
func (g *greeting) awaitHanded(t *testing.T, client net.Conn) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		if n, ok := g.begun.Load(client.LocalAddr().String()); ok && n.(*atomic.Int64).Load() == 2 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("net/http does not get the connection")
		}
	}
}

func dialed(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// A plain handshake goes past net/http; whatever is in the least doubtful, and every other request, does not, and is served
// as ever, from its first byte on.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	g := greeted(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Saw", fmt.Sprintf("%s %s %s %s %q", r.Method, r.RequestURI, r.Host, r.Header.Get("X-A"), body))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "no")
	})
	const path = "/connection/websocket"
	for name, c := range map[string]struct {
		pieces []string
		direct bool
		status int
		saw    string
	}{
		"plain":       {[]string{plainHandshake}, true, 418, `GET /connection/websocket?cf_protocol=protobuf example.com:8000 b, c ""`},
		"in pieces":   {[]string{plainHandshake[:60], plainHandshake[60:]}, false, 418, `GET /connection/websocket?cf_protocol=protobuf example.com:8000 b, c ""`},
		"no upgrade":  {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"}, false, 418, `GET ` + path + ` a  ""`},
		"elsewhere":   {[]string{"GET " + path + "s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"}, false, 418, `GET ` + path + `s a  ""`},
		"a POST":      {[]string{"POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"}, false, 418, `POST ` + path + ` a  "abc"`},
		"a body":      {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"}, false, 418, `GET ` + path + ` a  "abc"`},
		"body later":  {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n", "abc"}, false, 418, `GET ` + path + ` a  "abc"`},
		"HTTP/1.0":    {[]string{"GET " + path + " HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"}, false, 418, `GET ` + path + ` a  ""`},
		"two hosts":   {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nhost: b\r\nUpgrade: websocket\r\n\r\n"}, false, 400, ""},
		"no host":     {[]string{"GET " + path + " HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"}, false, 400, ""},
		"odd host":    {[]string{"GET " + path + " HTTP/1.1\r\nHost: a b\r\nUpgrade: websocket\r\n\r\n"}, false, 400, ""},
		"bare LF":     {[]string{"GET " + path + " HTTP/1.1\nHost: a\nX-A: x\nUpgrade: websocket\r\n\r\n"}, false, 418, `GET ` + path + ` a x ""`},
		"not ASCII":   {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nX-A: é\r\nUpgrade: websocket\r\n\r\n"}, false, 418, `GET ` + path + ` a é ""`},
		"NUL":         {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nX-A: \x00\r\nUpgrade: websocket\r\n\r\n"}, false, 400, ""},
		"odd name":    {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nX A: b\r\nUpgrade: websocket\r\n\r\n"}, false, 400, ""},
		"not HTTP":    {[]string{"hello\r\n\r\n"}, false, 400, ""},
		"long header": {[]string{"GET " + path + " HTTP/1.1\r\nHost: a\r\nX-A: " + strings.Repeat("x", firstRead) + "\r\nUpgrade: websocket\r\n\r\n"}, false, 418, `GET ` + path + ` a ` + strings.Repeat("x", firstRead) + ` ""`},
	} {
		before, conn := g.direct.Load(), dialed(t, g.address)
		for i, piece := range c.pieces {
			if i > 0 {
				g.awaitHanded(t, conn)
			}
			if _, err := io.WriteString(conn, piece); err != nil {
				t.Fatal(err)
			}
		}
		got, err := answered(bufio.NewReader(conn))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.status != c.status || got.header.Get("X-Saw") != c.saw || c.status == 418 && got.body != "no" {
			t.Errorf("%s: %+v", name, got)
		}
		if past := g.direct.Load() > before; past != c.direct {
			t.Errorf("%s: past net/http: %v", name, past)
		}
		if c.direct && (!got.last || got.header.Get("Date") == "") {
			t.Errorf("%s: the refusal has the header %v", name, got.header)
		}
		_ = conn.Close()
	}
}

// served is an answer.
type served struct {
	status int
	header http.Header
	last   bool // on its connection
	body   string
}

func answered(in *bufio.Reader) (served, error) {
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return served{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return served{answer.StatusCode, answer.Header, answer.Close, string(body)}, err
}

// Requests follow each other on a connection that net/http has, and a handshake on one of them is served too.
func TestHandshakeAfterRequests(t *testing.T) {
	t.Parallel()
	g := greeted(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	})
	conn := dialed(t, g.address)
	in := bufio.NewReader(conn)
	for i, request := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", plainHandshake} {
		_, _ = io.WriteString(conn, request)
		got, err := answered(in)
		if err != nil || (got.status == http.StatusSwitchingProtocols) != (i == 2) {
			t.Fatalf("request %d: %+v, %v", i, got, err)
		}
	}
	if g.direct.Load() != 0 {
		t.Error("a connection that net/http has was taken from it")
	}
	_, _ = io.WriteString(dialed(t, g.address), plainHandshake)
}

// A handler that panics ends its connection alone.
func TestHandshakePanics(t *testing.T) {
	t.Parallel()
	g := greeted(t, time.Minute, func(http.ResponseWriter, *http.Request) { panic("x") })
	for range 3 {
		conn := dialed(t, g.address)
		_, _ = io.WriteString(conn, plainHandshake)
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	}
	if g.direct.Load() != 3 {
		t.Error("they were not past net/http")
	}
}

// Who says nothing is let go, also when the server stops.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	g := greeted(t, 50*time.Millisecond, func(http.ResponseWriter, *http.Request) {})
	if b, err := io.ReadAll(dialed(t, g.address)); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}

	g = greeted(t, time.Hour, func(http.ResponseWriter, *http.Request) {})
	silent, other := dialed(t, g.address), dialed(t, g.address)
	_, _ = io.WriteString(other, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") // when it is answered, who came before has been accepted
	if _, err := answered(bufio.NewReader(other)); err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, conn := range []net.Conn{silent, other} {
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// What is taken for a plain handshake is to net/http the same request.
func FuzzHandshake(f *testing.F) {
	f.Add([]byte(plainHandshake))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > firstRead {
			return
		}
		g := &greeter{br: bufio.NewReaderSize(nil, firstRead)}
		r := g.parse(b)
		if r == nil {
			return
		}
		client, conn := net.Pipe()
		defer client.Close()
		got := make(chan *http.Request, 1)
		server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r })}
		go func() { _ = server.Serve(&single{conn: conn, done: make(chan struct{})}) }()
		defer server.Close()
		go func() { _, _ = client.Write(b) }()
		answer, err := answered(bufio.NewReader(client))
		if err != nil || answer.status != http.StatusOK {
			t.Fatalf("net/http answers %+v, %v", answer, err)
		}
		want := <-got
		if r.Method != want.Method || r.RequestURI != want.RequestURI || r.Host != want.Host || !reflect.DeepEqual(r.URL, want.URL) || !reflect.DeepEqual(r.Header, want.Header) || r.Close != want.Close {
			t.Errorf("%+v\nand to net/http\n%+v", r, want)
		}
	})
}

// single is a listener of one connection.
type single struct {
	conn net.Conn
	done chan struct{}
}

func (s *single) Accept() (net.Conn, error) {
	if c := s.conn; c != nil {
		s.conn = nil
		return c, nil
	}
	<-s.done
	return nil, net.ErrClosed
}

func (s *single) Close() error   { close(s.done); return nil }
func (s *single) Addr() net.Addr { return &net.TCPAddr{} }
