package realtime

import (
	"errors"
	"io"
	"sync/atomic"
)

// Bounds of what a WebSocket client may make its reader do.
const (
	maxUnconnected  = 64 << 10 // a message before the connection is accepted, in bytes
	maxFragments    = 1024     // of one message
	maxMessageTicks = 15       // seconds from a message's first byte to its end
	maxControls     = 100      // ping and pong frames a second
)

var errFragments = errors.New("too many fragments")

// guard watches over one reader without a timer: the reader counts, the shard's beat judges.
type guard struct {
	begun    atomic.Uint32 // odd while something is read: a frame or a message has begun and not ended
	controls atomic.Int32  // ping and pong frames since the last beat

	// Owned by the beat.
	seen  uint32 // begun at the last beat
	ticks int    // beats during which the same message was read
}

// begin is the reader's, at the first byte of a frame. A message that has begun goes on.
func (g *guard) begin() {
	if g.begun.Load()%2 == 0 {
		g.begun.Add(1)
	}
}

// end is the reader's, at the end of a message, or of a control frame outside of one.
func (g *guard) end() {
	if g.begun.Load()%2 == 1 {
		g.begun.Add(1)
	}
}

// control counts a ping or pong frame, and reports whether it is one too many.
func (g *guard) control() (tooMany bool) { return g.controls.Add(1) > maxControls }

// beat says why the client must go, or nil.
func (g *guard) beat() *Disconnect {
	if g.controls.Load() != 0 {
		g.controls.Store(0)
	}
	at := g.begun.Load()
	if at%2 == 0 || at != g.seen {
		g.seen, g.ticks = at, 0
		return nil
	}
	if g.ticks++; g.ticks >= maxMessageTicks {
		return badRequest("a message took too long")
	}
	return nil
}

// fragments reads a message of which every read brings a part of one frame at most.
type fragments struct {
	r    io.Reader
	left int
}

func (f *fragments) Read(b []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errFragments
	}
	return f.r.Read(b)
}
