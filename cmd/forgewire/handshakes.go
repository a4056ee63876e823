package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forgewire/handlers"
)

const (
	firstRead       = 4 << 10 // as net/http's buffers
	maxIdleGreeters = 64      // that wait for the next connection; more than that end after theirs
)

// handshakes is a server's listener that answers the handshakes of WebSockets before net/http has them, by the server's own
// handler. Thousands come at once when a replica has gone, and net/http would start a goroutine for each whose stack grows
// twice, with buffers that a WebSocket has no use for: a fifth of what a handshake takes. It knows only the plainest
// form of one, as browsers and clients send it: a request that it is not sure to read as net/http does, and every other
// one, is left to net/http, which gets it from its first byte on.
type handshakes struct {
	*net.TCPListener
	server *http.Server
	others chan net.Conn     // for net/http
	errs   chan error        // of accepting, for net/http, which knows when to go on
	ready  chan *net.TCPConn // for greeters that wait
	idle   atomic.Int32      // greeters that wait
	shut   chan struct{}     // closed by Close
	over   chan struct{}     // closed after that, when no handshake is being answered any more

	mu     sync.Mutex
	silent map[*net.TCPConn]struct{} // those that have sent nothing yet; guarded by mu, nil after Close
	open   sync.WaitGroup            // connections that net/http does not have
}

// newHandshakes begins to accept, which ends with Close. What is not TCP it leaves alone.
func newHandshakes(ln net.Listener, server *http.Server) net.Listener {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return ln
	}
	h := &handshakes{TCPListener: tcp, server: server, others: make(chan net.Conn), errs: make(chan error), ready: make(chan *net.TCPConn),
		shut: make(chan struct{}), over: make(chan struct{}), silent: make(map[*net.TCPConn]struct{})}
	go h.accept()
	return h
}

// Accept gives net/http what is not a handshake.
func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.others:
		return c, nil
	case err := <-h.errs:
		return nil, err
	case <-h.over:
		return nil, net.ErrClosed
	}
}

// Close accepts nothing more, and lets go of who has said nothing yet: net/http, too, answers no request that it reads later.
func (h *handshakes) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent == nil {
		return nil
	}
	for c := range h.silent {
		_ = c.Close() // who reads it counts it out
	}
	h.silent = nil
	close(h.shut)
	return h.TCPListener.Close() //nolint:wrapcheck // as net.Listener
}

func (h *handshakes) accept() {
	for {
		conn, err := h.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			select {
			case h.errs <- err:
			case <-h.shut:
			}
			continue
		}
		h.open.Add(1)
		h.state(conn, http.StateNew)
		select {
		case h.ready <- conn:
		default:
			go h.greet(conn)
		}
	}
	h.open.Wait()
	close(h.over)
}

// What a plain Host and the name of a plain header consist of.
const (
	nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	hostBytes = nameBytes + ".:[]"
)

const hostKey = "host:"

// A greeter reads what connections begin with, one after the other: its stack stays as large as that takes.
type greeter struct {
	buf  [firstRead]byte
	in   bytes.Reader
	br   *bufio.Reader
	none *bufio.ReadWriter // of what follows a handshake: nothing
}

func (h *handshakes) greet(conn *net.TCPConn) {
	g := &greeter{br: bufio.NewReaderSize(nil, firstRead), none: bufio.NewReadWriter(bufio.NewReaderSize(bytes.NewReader(nil), 16), nil)}
	for {
		h.first(g, conn)
		h.open.Done()
		if h.idle.Add(1) > maxIdleGreeters {
			h.idle.Add(-1)
			return
		}
		select {
		case conn = <-h.ready:
			h.idle.Add(-1)
		case <-h.over:
			return
		}
	}
}

// first reads what a connection begins with, and answers it or leaves it to net/http.
func (h *handshakes) first(g *greeter, conn *net.TCPConn) {
	n, err := h.read(conn, g.buf[:])
	if err != nil {
		_ = conn.Close()
		h.state(conn, http.StateClosed)
		return
	}
	if r := g.parse(g.buf[:n]); r != nil {
		r.RemoteAddr = conn.RemoteAddr().String()
		h.answer(&answer{conn: conn, none: g.none}, r)
		return
	}
	h.state(conn, http.StateClosed) // net/http counts it anew
	select {
	case h.others <- &begunConn{conn, bytes.Clone(g.buf[:n])}:
	case <-h.shut:
		_ = conn.Close()
	}
}

// parse reads a handshake. It returns nil for what is not one or is not plain: all of it must be there, in printable ASCII,
// with one Host and no body, so that net/http could not read anything else into it.
func (g *greeter) parse(b []byte) *http.Request {
	if !bytes.HasPrefix(b, []byte("GET "+handlers.HandshakePath)) || bytes.Index(b, []byte("\r\n\r\n")) != len(b)-4 {
		return nil
	}
	hosts := 0
	for i, c := range b {
		switch {
		case c == '\n' && b[i-1] == '\r':
			if rest := b[i+1:]; len(rest) > len(hostKey) && strings.EqualFold(string(rest[:len(hostKey)]), hostKey) {
				hosts++
			}
		case c == '\r' && b[i+1] == '\n', c >= ' ' && c <= '~':
		default:
			return nil
		}
	}
	g.in.Reset(b)
	g.br.Reset(&g.in)
	r, err := http.ReadRequest(g.br)
	if err != nil || r.Proto != "HTTP/1.1" || r.URL.Path != handlers.HandshakePath || r.Header.Get("Upgrade") == "" ||
		r.ContentLength != 0 || r.TransferEncoding != nil || r.Header["Expect"] != nil ||
		hosts != 1 || r.Host == "" || strings.Trim(r.Host, hostBytes) != "" {
		return nil
	}
	for name := range r.Header {
		if strings.Trim(name, nameBytes) != "" {
			return nil
		}
	}
	return r
}

// read waits for the first bytes of a connection, unless Close ends that.
func (h *handshakes) read(conn *net.TCPConn, b []byte) (int, error) {
	h.mu.Lock()
	if h.silent == nil {
		h.mu.Unlock()
		return 0, net.ErrClosed
	}
	h.silent[conn] = struct{}{}
	h.mu.Unlock()
	_ = conn.SetReadDeadline(time.Now().Add(h.server.ReadHeaderTimeout)) // fails only on a closed one, as the read will
	n, err := conn.Read(b)
	h.mu.Lock()
	delete(h.silent, conn)
	h.mu.Unlock()
	return n, err //nolint:wrapcheck // nobody is told
}

func (h *handshakes) state(conn net.Conn, s http.ConnState) {
	if h.server.ConnState != nil {
		h.server.ConnState(conn, s)
	}
}

// answer is what the handler of a handshake writes to: a connection that it takes, or a refusal.
type answer struct {
	conn   net.Conn
	none   *bufio.ReadWriter
	header http.Header
	status int // 0: not begun
	body   bytes.Buffer
	taken  bool
}

// answer serves a handshake as net/http would.
func (h *handshakes) answer(a *answer, r *http.Request) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http
			h.server.ErrorLog.Printf("panic in a handshake with %s: %v\n%s", r.RemoteAddr, p, debug.Stack())
		}
		if a.taken {
			h.state(a.conn, http.StateHijacked)
			return
		}
		_ = a.conn.Close()
		h.state(a.conn, http.StateClosed)
	}()
	h.server.Handler.ServeHTTP(a, r)
	if !a.taken {
		a.refuse()
	}
}

// Header is http.ResponseWriter's.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

// WriteHeader is http.ResponseWriter's.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write is http.ResponseWriter's. A refusal is short.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// Hijack is http.Hijacker's.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a.taken {
		return nil, nil, http.ErrHijacked
	}
	a.taken = true
	return a.conn, a.none, nil
}

// refuse sends what the handler has written, after which the connection ends.
func (a *answer) refuse() {
	a.WriteHeader(http.StatusOK)
	h := a.Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	h.Set("Connection", "close")
	b := bytes.NewBufferString("HTTP/1.1 " + strconv.Itoa(a.status) + " " + http.StatusText(a.status) + "\r\n")
	_ = h.Write(b) // a buffer takes all
	b.WriteString("\r\n")
	b.Write(a.body.Bytes())
	_, _ = a.conn.Write(b.Bytes()) // the client may have gone
}

// begunConn is a connection of which the first bytes were read.
type begunConn struct {
	*net.TCPConn
	head []byte
}

// Read gives those first.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.head) == 0 {
		return c.TCPConn.Read(p) //nolint:wrapcheck // as net.Conn
	}
	n := copy(p, c.head)
	c.head = c.head[n:]
	return n, nil
}
