package llm

import (
	"sync"
	"time"
)

// After this many failures in a row an upstream is left alone, for a time that doubles while it goes on failing.
const (
	breakAfter = 5
	minBreak   = time.Second
	maxBreak   = 30 * time.Second
)

// breaker keeps requests from an upstream that fails: those that come would wait for nothing.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time // nobody is let through before
	pause    time.Duration
}

// allow says whether to try now. When a pause is over one caller tries, and the others wait for what he finds.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(b.pause)
	return true
}

// left is how long the pause lasts.
func (b *breaker) left(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, b.until.Sub(now))
}

func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.pause = 0, 0
}

func (b *breaker) failed(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	if b.failures >= breakAfter {
		b.pause = min(max(2*b.pause, minBreak), maxBreak)
		b.until = now.Add(b.pause)
	}
}
