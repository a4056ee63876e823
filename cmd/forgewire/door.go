package main

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// spareConnections are those for everything but clients that stay: requests, and peers that have not said yet what they
// want.
const spareConnections = 1024

// refusedEvery is how often is told of connections that were closed at once.
const refusedEvery = 10 * time.Second

// A door bounds the TCP connections of one server, whatever they send or do not send: each holds a file and memory from its
// first moment on. One that is too many is closed at once, unread.
type door struct {
	most    int64
	sockets func() int64 // WebSockets, of which the server knows nothing any more
	logger  *slog.Logger

	held    atomic.Int64 // by the server
	refused atomic.Int64 // since the last line of log

	mu   sync.Mutex
	told time.Time // guarded by mu
}

// state is an http.Server's ConnState.
func (d *door) state(conn net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if d.held.Add(1)+d.sockets() > d.most {
			_ = conn.Close() // what the server does with it next fails, and it lets go
			d.refused.Add(1)
			d.tell(time.Now())
		}
	case http.StateClosed, http.StateHijacked:
		d.held.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}

func (d *door) tell(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.told) < refusedEvery {
		return
	}
	d.told = now
	d.logger.Warn("connections were closed at once: there are too many (FORGEWIRE_MAX_CONNECTIONS)", "refused", d.refused.Swap(0), "most", d.most)
}
