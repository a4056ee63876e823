package realtime

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
)

// maxIdleWorkers is how many workers wait for the next frame; more than that end after theirs.
const maxIdleWorkers = 64

// workers handle what clients send. Decoding takes a large stack: a client's own goroutine, which lives as long as
// the connection, would keep it for good, and a new one for each frame would have to grow it each time. There are
// as many as frames are being handled, so that one that waits for the database holds up nobody.
type workers struct {
	frames chan *received // taken by those that wait
	idle   atomic.Int32
	group  sync.WaitGroup
}

// received is a frame of a client's.
type received struct {
	client *client
	kind   websocket.MessageType
	data   []byte
	done   chan *Disconnect // capacity 1
}

var frames = sync.Pool{New: func() any { return &received{done: make(chan *Disconnect, 1)} }}

// handle runs a frame's commands and waits for their end. The workers end with ctx.
func (w *workers) handle(ctx context.Context, c *client, kind websocket.MessageType, data []byte) *Disconnect {
	f := frames.Get().(*received)
	f.client, f.kind, f.data = c, kind, data
	select {
	case w.frames <- f:
	default:
		w.group.Go(func() { w.run(ctx, f) })
	}
	d := <-f.done
	f.client, f.data = nil, nil
	frames.Put(f)
	return d
}

func (w *workers) run(ctx context.Context, f *received) {
	for {
		f.done <- f.client.handleFrame(ctx, f.kind, f.data)
		if w.idle.Add(1) > maxIdleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case f = <-w.frames:
			w.idle.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}
