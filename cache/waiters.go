package cache

import (
	"sync"
	"sync/atomic"
)

// waiters are those who wait for a name to change in Valkey.
type waiters struct {
	count atomic.Int64 // len(open), to look at without the lock
	mu    sync.Mutex
	open  map[string]chan struct{}
}

// on returns a channel that is closed at the name's next change.
func (w *waiters) on(name string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.open[name]
	if ch == nil {
		if w.open == nil {
			w.open = make(map[string]chan struct{})
		}
		ch = make(chan struct{})
		w.open[name] = ch
		w.count.Store(int64(len(w.open)))
	}
	return ch
}

// off forgets a channel that nobody waits on any more. Only one waits for a name:
// its flight.
func (w *waiters) off(name string, ch <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[name] == ch {
		delete(w.open, name)
		w.count.Store(int64(len(w.open)))
	}
}

// wake closes the channel of a name, for all who wait on it.
func (w *waiters) wake(name string) {
	if w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.open[name]; ch != nil {
		close(ch)
		delete(w.open, name)
		w.count.Store(int64(len(w.open)))
	}
}

func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.open {
		close(ch)
	}
	w.open = nil
	w.count.Store(0)
}
