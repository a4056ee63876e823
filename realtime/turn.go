package realtime

import (
	"context"
	"fmt"
	"time"
)

// Bounds of what subscribers read of the past: so many read at once, and one waits so long for its turn.
const (
	maxTurns = 16
	turnWait = 30 * time.Second
)

// turn waits until a subscriber may read. After a restart all clients ask at once: they wait here, and not in
// the pool, whose queue is short and which other requests need too. Whoever waits too long comes back later.
// So does, within a second, a command whose connection has ended: else who loses patience and comes back would wait twice,
// and all the longer. The query itself goes on: to end it costs the pool a connection.
func (l *Log) turn(ctx context.Context) (done func(), err error) {
	select {
	case l.turns <- struct{}{}:
		return func() { <-l.turns }, nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	if c, ok := ctx.Value(waiter{}).(*client); ok {
		defer c.shard.wait(c, cancel)()
	}
	select {
	case l.turns <- struct{}{}:
		return func() { <-l.turns }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to read the past: %w", ctx.Err())
	}
}

// waiter is the key of the client for whose command a context is.
type waiter struct{}

// waiting returns a context for what may wait for its turn.
func (c *client) waiting(ctx context.Context) context.Context {
	return context.WithValue(ctx, waiter{}, c)
}

// A wait is a command's, for its turn.
type wait struct {
	client *client
	cancel context.CancelFunc
}

// wait calls cancel when the client's connection ends before done was called.
func (s *shard) wait(c *client, cancel context.CancelFunc) (done func()) {
	w := &wait{client: c, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[w] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waits, w)
	}
}

// callOff ends the waits of clients that are gone. The caller holds mu.
func (s *shard) callOff() {
	for w := range s.waits {
		if w.client.gone() {
			w.cancel()
		}
	}
}

// gone says whether the client has left, or was told to go. While a command waits nobody reads the connection, which would
// tell; but the watcher hears of its end.
func (c *client) gone() bool {
	socket, ok := c.out.(*conn)
	return c.ended.Load() || ok && socket.ending.Load()
}
