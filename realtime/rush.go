package realtime

import (
	"context"
	"runtime/debug"
	"time"
)

// When memory is returned: once a rush of so many connections, or of their ends, is over.
const (
	rushConnections = 1000
	rushLook        = 5 * time.Second
)

// returnMemory gives what a rush has left behind back to the system. Handshakes take far more memory than the
// connections that they lead to, and the runtime keeps it for the next rush: a third of what all connections take.
func (n *Node) returnMemory(ctx context.Context) error {
	ticker := time.NewTicker(rushLook)
	defer ticker.Stop()
	var r rush
	for {
		select {
		case <-ticker.C:
			if r.over(n.hub.count.Load()) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// rush watches the number of connections.
type rush struct {
	last     int64 // at the last look
	returned int64 // when memory was returned
}

// over reports whether there was a rush, and no more than a tenth of one goes on.
func (r *rush) over(now int64) bool {
	calm := max(now-r.last, r.last-now) < rushConnections/10
	r.last = now
	if !calm || max(now-r.returned, r.returned-now) < rushConnections {
		return false
	}
	r.returned = now
	return true
}
