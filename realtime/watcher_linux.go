package realtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxWatched is how many events are taken from the kernel at once.
const maxWatched = 256

// watcher wakes connections that nobody reads when something comes for them. It is an epoll of our own beside the
// runtime's, which knows goroutines alone: the connection stays the runtime's too, so that deadlines and whoever
// waits inside of a frame work as ever. Each event carries a spot and the turn at which the spot was taken, never the
// file descriptor: what the kernel reports late, of a descriptor that is somebody else's by now, finds nobody.
type watcher struct {
	epoll *os.File // in the runtime's own poller: who waits for it holds no thread
	raw   syscall.RawConn

	mu    sync.Mutex
	spots []spot
	free  []int32 // spots that nobody has
}

// spot is a connection's in the watcher.
type spot struct {
	conn *conn // nil while nobody has it
	turn int32 // how often it was taken
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if err = unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	w := &watcher{epoll: os.NewFile(uintptr(fd), "epoll")}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		_ = w.epoll.Close()
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	return w, nil
}

// run wakes connections until ctx ends.
func (w *watcher) run(ctx context.Context) error {
	if w == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = w.epoll.Close() })
	defer stop()
	events, woken := make([]unix.EpollEvent, maxWatched), make([]*conn, 0, maxWatched)
	for {
		n, err := w.wait(events)
		if err != nil && ctx.Err() != nil {
			return nil // it was closed
		}
		if err != nil {
			return fmt.Errorf("watch connections: %w", err)
		}
		woken = w.find(events[:n], woken[:0])
		for _, c := range woken {
			c.wake()
		}
		clear(woken)
	}
}

func (w *watcher) wait(events []unix.EpollEvent) (n int, err error) {
	rerr := w.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.EpollWait(int(fd), events, 0); !errors.Is(err, unix.EINTR) {
				return n != 0
			}
		}
	})
	return max(n, 0), errors.Join(rerr, err)
}

// find adds the connections of events to found.
func (w *watcher) find(events []unix.EpollEvent, found []*conn) []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		p := w.spots[e.Fd]
		if p.conn == nil || p.turn != e.Pad {
			continue // it has left since
		}
		if e.Events&^unix.EPOLLIN != 0 {
			p.conn.ending.Store(true)
		}
		found = append(found, p.conn)
	}
	return found
}

// add begins to watch a connection, and reports whether it can. Something may have come already: then it is woken at
// once, as whenever more comes, also while somebody reads it.
func (w *watcher) add(c *conn) bool {
	if w == nil || c.raw == nil {
		return false
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET}
	w.mu.Lock()
	if n := len(w.free); n > 0 {
		c.spot, w.free = w.free[n-1], w.free[:n-1]
	} else {
		c.spot = int32(len(w.spots))
		w.spots = append(w.spots, spot{})
	}
	p := &w.spots[c.spot]
	p.conn, p.turn = c, p.turn+1
	e.Fd, e.Pad = c.spot, p.turn
	w.mu.Unlock()

	var err error
	outer := w.raw.Control(func(epoll uintptr) {
		inner := c.raw.Control(func(fd uintptr) { // who is in here keeps the descriptor from being closed
			err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &e)
		})
		err = errors.Join(err, inner)
	})
	if outer != nil || err != nil {
		w.remove(c)
		return false
	}
	return true
}

// remove forgets a connection that was added. The kernel does when it is closed.
func (w *watcher) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spots[c.spot].conn = nil
	w.free = append(w.free, c.spot)
}
