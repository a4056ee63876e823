package realtime

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startWatcher runs a watcher until the test's end.
func startWatcher(t *testing.T) *watcher {
	w := must(newWatcher())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// An event of a descriptor that has become somebody else's meanwhile finds nobody.
func TestWatcherForgets(t *testing.T) {
	w := startWatcher(t)
	connect := func() (*conn, func([]byte)) {
		ours, theirs := tcpPair(t)
		c := newConn(ours) // it counts as being read: to be woken is to be counted
		if !w.add(c) {
			t.Fatal("it is not watched")
		}
		return c, func(b []byte) { _, _ = theirs.Write(b) }
	}
	first, toFirst := connect()
	old := unix.EpollEvent{Events: unix.EPOLLIN, Fd: first.spot, Pad: w.spots[first.spot].turn}
	toFirst([]byte("x"))
	eventually(t, 20*time.Second, "it is woken", func() bool { return first.wakes.Load() == 2 })
	toFirst([]byte("x"))
	eventually(t, 20*time.Second, "it is woken by what comes before the rest is read", func() bool { return first.wakes.Load() == 3 })
	if got := w.find([]unix.EpollEvent{old}, nil); len(got) != 1 || got[0] != first {
		t.Fatal("its own event does not find it")
	}
	w.remove(first)
	if got := w.find([]unix.EpollEvent{old}, nil); len(got) != 0 {
		t.Error("it is found after it has left")
	}
	_ = first.Conn.Close()
	second, _ := connect()
	if second.spot != first.spot {
		t.Fatal("the spot was not used again: this test shows nothing")
	}
	if got := w.find([]unix.EpollEvent{old}, nil); len(got) != 0 {
		t.Error("another connection is found by it")
	}
	if second.wakes.Load() != 1 {
		t.Error("another connection was woken")
	}
}

// What has come before a connection is watched wakes it, and so does its end.
func TestWatcherSeesWhatWasThere(t *testing.T) {
	w := startWatcher(t)
	ours, theirs := tcpPair(t)
	c := newConn(ours)
	_, _ = theirs.Write([]byte("x"))
	if !w.add(c) {
		t.Fatal("it is not watched")
	}
	eventually(t, 20*time.Second, "it is woken", func() bool { return c.wakes.Load() > 1 })
	if c.ending.Load() {
		t.Error("it is not at its end")
	}
	_ = theirs.CloseWrite()
	eventually(t, 20*time.Second, "its end is seen", func() bool { return c.ending.Load() })
	if w.add(newConn(noFD{ours})) {
		t.Error("what has no descriptor is watched")
	}
}
