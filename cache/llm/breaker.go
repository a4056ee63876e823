package llm

import (
	"sync"
	"time"
)

// After this many failures in a row an upstream is left alone for a model, for a time that doubles while it goes on failing.
const (
	breakAfter = 5
	minBreak   = time.Second
	maxBreak   = 30 * time.Second
	maxBreaks  = 1024 // that are remembered: callers choose the names of models
)

// breakers keep requests from upstreams that fail: those that come would wait for nothing. Each upstream has one for
// each of its models, so that one that is broken there is not in the way of the others.
type breakers struct {
	mu      sync.Mutex
	failing map[route]*breaker // guarded by mu, and all in it
}

type breaker struct {
	failures int
	until    time.Time // nobody is let through before
	pause    time.Duration
}

func newBreakers() *breakers { return &breakers{failing: map[route]*breaker{}} }

// allow says whether to try now. When a pause is over one caller tries, and the others wait for what he finds.
func (bs *breakers) allow(r route, now time.Time) bool {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.failing[r]
	if b == nil || b.failures < breakAfter {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(b.pause)
	return true
}

// left is how long the pause lasts.
func (bs *breakers) left(r route, now time.Time) time.Duration {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.failing[r]
	if b == nil {
		return 0
	}
	return max(0, b.until.Sub(now))
}

func (bs *breakers) succeeded(r route) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	delete(bs.failing, r)
}

func (bs *breakers) failed(r route, now time.Time) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.failing[r]
	if b == nil {
		if len(bs.failing) >= maxBreaks {
			for any := range bs.failing {
				delete(bs.failing, any)
				break
			}
		}
		b = &breaker{}
		bs.failing[r] = b
	}
	b.failures++
	if b.failures >= breakAfter {
		b.pause = min(max(2*b.pause, minBreak), maxBreak)
		b.until = now.Add(b.pause)
	}
}

// away counts those that are not let through now.
func (bs *breakers) away(now time.Time) (n int) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, b := range bs.failing {
		if now.Before(b.until) {
			n++
		}
	}
	return n
}
