package realtime

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of what one connection may hold in memory for a client that does not read.
const (
	maxPending   = 1 << 20                   // publications; over it the client is slow
	maxReply     = maxRecoveredBytes + 4<<20 // a reply the client asked for, on top
	drainTimeOut = 30 * time.Second          // one write of what was pending
	closeTimeout = 5 * time.Second           // from our close frame to the end of the connection
)

var errSlow = errors.New("slow consumer")

// conn is the net.Conn that coder/websocket is given at Hijack. coder/websocket reads, and writes control
// frames, through it; the hub sends whole, shared, prebuilt frames past it with send. There is no writer
// goroutine and no timer: a frame is written at once, without blocking, and what the socket does not take
// waits for a goroutine that lives only as long as there is something to wait for.
type conn struct {
	net.Conn
	raw  syscall.RawConn // nil where the transport has no file descriptor (TLS in the process)
	head []byte          // what net/http had read past the handshake; used by the reader alone
	reading

	closing atomic.Bool // a close frame is the last thing in pending or was sent; set under mu

	mu       sync.Mutex
	pending  []byte // whole frames, but for a first one of which the socket took a part; guarded by mu
	begun    int    // how many bytes of pending end a frame that has begun; guarded by mu
	draining bool   // a drain goroutine exists; guarded by mu
	err      error  // the first write error; guarded by mu
}

func newConn(c net.Conn) *conn {
	w := &conn{}
	w.init(c)
	return w
}

func (c *conn) init(under net.Conn) {
	c.Conn = under
	c.wakes.Store(1)
	if sc, ok := under.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn() // without one, drain writes everything
	}
}

// Write is coder/websocket's way out: the handshake, pongs, and the echo of a close frame.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.send(b, maxPending); err != nil {
		return 0, err
	}
	return len(b), nil
}

// send queues b, whole frames, and never blocks. It returns errSlow, and drops b, if something waits already
// and it would be more than limit bytes. b is not kept and not changed.
func (c *conn) send(b []byte, limit int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.closing.Load():
		return nil // the client is being told to go; nothing may follow
	case len(c.pending) > 0 && len(c.pending)+len(b) > limit:
		return errSlow
	}
	return c.write(b)
}

// write sends what the socket takes and leaves the rest to drain. The caller holds mu.
func (c *conn) write(b []byte) error {
	if !c.draining && c.raw != nil {
		n, err := c.writeNow(b)
		if err != nil {
			c.fail(err)
			return err
		}
		c.begun = restOfFrame(b, n)
		b = b[n:]
	}
	if len(b) == 0 {
		return nil
	}
	c.pending = append(c.pending, b...)
	if !c.draining {
		c.draining = true
		go c.drain()
	}
	return nil
}

// restOfFrame returns how many bytes are left of the frame in which b[:n] ends.
func restOfFrame(b []byte, n int) int {
	at := 0
	for at < n {
		size := 2
		switch l := int(b[at+1] & 0x7f); l {
		case 126:
			size += 2 + int(b[at+2])<<8 + int(b[at+3])
		case 127:
			size += 8
			for i := range 8 {
				size += int(b[at+2+i]) << (56 - 8*i)
			}
		default:
			size += l
		}
		at += size
	}
	return at - n
}

// writeNow makes one write that does not wait. EAGAIN means that nothing was written.
func (c *conn) writeNow(b []byte) (n int, err error) {
	t := attempts.Get().(*attempt)
	defer t.over()
	t.b = b
	rerr := c.raw.Write(t.write)
	if errors.Is(t.err, syscall.EAGAIN) || errors.Is(t.err, syscall.EINTR) {
		return 0, nil
	}
	return max(t.n, 0), errors.Join(rerr, t.err)
}

// drain writes what is pending, and ends with it. After the close frame it waits for the client's, as long
// as closeTimeout: the reader closes the connection.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 && c.err == nil {
		b := c.pending
		c.pending, c.begun = nil, 0
		if !c.closing.Load() {
			_ = c.SetWriteDeadline(time.Now().Add(drainTimeOut)) // fails only on a closed connection, as the write will
		}
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		if err != nil {
			c.fail(err)
		}
	}
	c.draining = false
	if !c.closing.Load() {
		_ = c.SetWriteDeadline(time.Time{}) // writeNow would be bound by it too
	}
}

// fail ends the connection after a write error: the reader notices and cleans up. The caller holds mu.
func (c *conn) fail(err error) {
	c.err = err
	_ = c.Close() // it is broken anyway
}

// Close ends the connection at once.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.wake() // the kernel says nothing of what we close ourselves
	return err
}

// disconnect sends a close frame after the frame that has begun, in place of all that still waits, and gives
// the client closeTimeout to answer it. The reader ends then, at the latest.
// It reports whether it was the first to say so.
func (c *conn) disconnect(d *Disconnect) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() || c.err != nil {
		return false
	}
	deadline := time.Now().Add(closeTimeout)
	_ = c.SetDeadline(deadline) // fails only on a closed connection, of which the reader knows
	if d == disconnectSlow {
		c.pending = c.pending[:c.begun]
	}
	_ = c.write(closeFrame(d)) // the reader will see the error
	c.closing.Store(true)
	c.wake() // somebody must see the end
	return true
}

// hijacker hands websocket.Accept our conn and small buffers instead of net/http's 4 KiB ones. It also answers the
// handshake itself, in one write: net/http would do so at the end of a deep stack, which grows for nothing else.
type hijacker struct {
	http.ResponseWriter
	conn *conn // begins with Hijack
}

// WriteHeader leaves the answer to a handshake that is accepted to Hijack, which is called next.
func (h *hijacker) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Time{}) // the server's header timeout ends here; a dead connection fails at the first read
	h.conn.init(c)
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Peek(n) // what is buffered can be peeked at
		h.conn.head = bytes.Clone(b)
	}
	if _, err = c.Write(switching(h.Header())); err != nil { // it fits into the empty socket
		_ = c.Close()
		return nil, nil, fmt.Errorf("answer the handshake: %w", err)
	}
	h.conn.br = bufio.NewReaderSize(h.conn, 16) // see serve
	return h.conn, bufio.NewReadWriter(h.conn.br, bufio.NewWriterSize(h.conn, 128)), nil
}

// switching is the answer to a handshake.
func switching(header http.Header) []byte {
	b := append(make([]byte, 0, 512), "HTTP/1.1 101 Switching Protocols\r\n"...)
	for name, values := range header {
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n") {
				continue // nothing of ours has them
			}
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}
