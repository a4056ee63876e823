package realtime

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/coder/websocket"
)

// A connection that has sent nothing has nobody who reads: no goroutine and no buffer. The watcher wakes it when
// something comes; a worker reads and handles that until nothing is left, and parks it again. Only in the middle of a
// frame or a message, and while the connection ends, does somebody wait on it: guard says how long the client may take,
// disconnect how long the end. Where there is no watcher, or no descriptor to watch (TLS in the process), a goroutine of
// the connection's own does the same, and waits where it would park.

// errNothing is what coder/websocket gets, and returns, where a read would wait between two frames. It has taken nothing
// of a frame then, and can be asked again.
var errNothing = errors.New("nothing to read")

// reading is the part of a conn that reads.
type reading struct {
	client *client
	ws     *websocket.Conn
	leave  func() // the limits of its address

	watched bool          // fixed by start
	spot    int32         // the watcher's
	wakes   atomic.Uint32 // 0: parked; else somebody reads, who must look again if it has changed since he last did
	ending  atomic.Bool   // the client has closed its side, or worse: a read says so

	// Owned by whoever reads.
	br      *bufio.Reader // coder/websocket's; without a buffer while it is parked
	seen    uint32        // wakes before the last read
	drained bool          // that read took all there was
	inside  bool          // of a message, after its first frame's header
	between bool          // no frame has begun
	large   bool          // messages may be as large as a publication
}

// inputs lend buffers to the readers of those that are watched.
var inputs = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, inputSize) }}

// inputSize takes nearly every frame in one read.
const inputSize = 2 << 10

// start begins to read. The connection has joined, and whoever accepted it counts as its reader until now.
func (c *conn) start() {
	n := c.client.node
	*c.br = bufio.Reader{}
	c.watched = n.watcher.add(c)
	switch {
	case !c.watched:
		n.workers.group.Go(func() { c.serve(n.life) })
	case len(c.head) > 0 || !c.wakes.CompareAndSwap(1, 0):
		n.workers.serve(n.life, c)
	}
}

// wake lets a worker read the connection, or whoever reads it look again before he parks it.
func (c *conn) wake() {
	if c.wakes.Add(1) == 1 {
		n := c.client.node
		n.workers.serve(n.life, c)
	}
}

// serve reads and handles what comes until the connection is parked or over.
func (c *conn) serve(ctx context.Context) {
	in := inputs.Get().(*bufio.Reader)
	defer func() {
		in.Reset(nil)
		inputs.Put(in)
	}()
	in.Reset(c)
	for {
		*c.br, c.drained = *in, false
		idle := c.read(ctx)
		if !idle {
			break
		}
		*c.br = bufio.Reader{}
		if c.wakes.CompareAndSwap(c.seen, 0) {
			return
		}
	}
	n := c.client.node
	c.client.shard.remove(c.client)
	if c.watched {
		n.watcher.remove(c)
	}
	_ = c.ws.CloseNow() // it is over
	*c.br = bufio.Reader{}
	n.hub.count.Add(-1)
	n.sockets.Add(-1)
	c.leave()
	n.clients.Done()
}

// read handles messages until nothing is left, and then reports true, or until the connection is over.
func (c *conn) read(ctx context.Context) (idle bool) {
	for {
		if c.between = c.br.Buffered() == 0; !c.between {
			c.client.guard.begin()
		}
		_, err := c.br.Peek(1) // an idle connection's error comes from here, before coder/websocket adds words to it
		if err == nil {
			err = c.message(ctx)
		}
		if err != nil {
			return errors.Is(err, errNothing)
		}
	}
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// message handles the next one.
func (c *conn) message(ctx context.Context) error {
	kind, r, err := c.ws.Reader(context.Background()) // no deadline: a timer a message costs more than the message
	if err != nil {
		return err
	}
	b := buffers.Get().(*bytes.Buffer)
	b.Reset()
	defer func() {
		if b.Cap() < 64<<10 {
			buffers.Put(b)
		}
	}()
	c.inside = true
	c.client.guard.begin()
	_, err = b.ReadFrom(&fragments{r: r, left: maxFragments})
	c.client.guard.end()
	c.inside = false
	if errors.Is(err, errFragments) {
		c.client.disconnect(badRequest("too many fragments"))
	}
	if err != nil {
		return err
	}
	c.client.handleMessage(ctx, kind, b.Bytes())
	if !c.large && c.client.isConnected() {
		// What carries a publication of the largest size, and its channel, fits; more closes with 1009.
		c.ws.SetReadLimit(int64(max(c.client.node.cfg.MaxPublicationBytes+4096, maxUnconnected)))
		c.large = true
	}
	return nil
}

// control is told of each ping and pong frame when it was read whole, and reports whether it is to be answered.
func (c *conn) control() bool {
	if !c.inside {
		c.client.guard.end()
		if c.between = c.br.Buffered() == 0; !c.between {
			c.client.guard.begin()
		}
	}
	if c.client.guard.control() {
		c.client.disconnect(disconnectTooMany)
		return false
	}
	return true
}

// Read is coder/websocket's way in. It returns first what net/http had already read: a client may speak as soon as it
// sees the 101, which is before Hijack returns (about 3 in 1,000 do under load).
func (c *conn) Read(b []byte) (n int, err error) {
	idle := c.watched && c.between && !c.closing.Load()
	switch {
	case len(c.head) > 0:
		n = copy(b, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
	case idle && c.drained && !c.ending.Load():
		return 0, errNothing
	default:
		c.seen = c.wakes.Load() // before the read: what comes after it wakes us once more
		if idle {
			n, err = c.readNow(b)
		} else {
			n, err = c.Conn.Read(b)
		}
		c.drained = n < len(b)
	}
	if c.between && n > 0 {
		c.between = false
		c.client.guard.begin()
	}
	return n, err
}

// readNow makes one read that does not wait.
func (c *conn) readNow(b []byte) (n int, err error) {
	t := attempts.Get().(*attempt)
	defer t.over()
	t.b = b
	rerr := c.raw.Read(t.read)
	switch {
	case rerr != nil:
		return 0, rerr
	case errors.Is(t.err, syscall.EAGAIN):
		return 0, errNothing
	case t.n == 0 && t.err == nil:
		return 0, io.EOF
	}
	return max(t.n, 0), t.err
}
