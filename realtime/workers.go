package realtime

import (
	"context"
	"sync"
	"sync/atomic"
)

// maxIdleWorkers is how many workers wait for the next connection; more than that end after theirs.
const maxIdleWorkers = 64

// workers read what clients send, and handle it. That takes a large stack, which a new goroutine would have to grow each
// time. There are as many as connections are being read, so that one that waits for the database holds up nobody.
type workers struct {
	ready chan *conn // taken by those that wait
	idle  atomic.Int32
	group sync.WaitGroup // also of those that read one connection for good
}

// serve lets a worker read a connection. The workers end with ctx.
func (w *workers) serve(ctx context.Context, c *conn) {
	select {
	case w.ready <- c:
	default:
		w.group.Go(func() { w.run(ctx, c) })
	}
}

func (w *workers) run(ctx context.Context, c *conn) {
	for {
		c.serve(ctx)
		if w.idle.Add(1) > maxIdleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case c = <-w.ready:
			w.idle.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}
