package cache

import "sync/atomic"

// tripAfter is how many calls in a row fail before no more are made.
const tripAfter = 3

// breaker stops calls to a server that does not answer. It opens by itself and is
// closed by whoever has seen the server answer again. It begins open: nothing is
// connected yet.
type breaker struct {
	closed   atomic.Bool
	failures atomic.Int32
	onOpen   func() // called once each time it opens; must not block
}

func (b *breaker) isOpen() bool { return !b.closed.Load() }

func (b *breaker) success() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

func (b *breaker) failure() {
	if b.failures.Add(1) >= tripAfter && b.closed.CompareAndSwap(true, false) {
		b.onOpen()
	}
}

func (b *breaker) close() {
	b.failures.Store(0)
	b.closed.Store(true)
}
