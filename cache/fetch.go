package cache

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// flights are the fills under way in this process, one a key.
type flights struct {
	mu   sync.Mutex
	open map[string]*flight
}

// flight is one fill and those who wait for it.
type flight struct {
	done    chan struct{} // closed when entry and err are set
	entry   Entry
	err     error
	cancel  context.CancelFunc
	waiting int // guarded by flights.mu
}

// Fetch returns the cached entry, or fills it: callers that miss a key at the same
// time share one call of fill. The fill's context has the values of the first
// caller's, and ends when nobody waits for it any more. An error is fill's own, or
// that of ctx; nothing is stored then.
func (c *Cache) Fetch(ctx context.Context, key string, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	if e, ok := c.Get(ctx, key); ok && !e.Stale {
		return e, nil
	}
	f := c.join(ctx, short(key), o, fill)
	select {
	case <-f.done:
		return f.entry, f.err
	case <-ctx.Done():
		c.flights.leave(f)
		return Entry{}, fmt.Errorf("wait for the fill: %w", ctx.Err())
	}
}

func (c *Cache) join(ctx context.Context, key string, o FetchOptions, fill func(context.Context) ([]byte, error)) *flight {
	c.flights.mu.Lock()
	defer c.flights.mu.Unlock()
	if f := c.flights.open[key]; f != nil {
		f.waiting++
		c.counters.joined.Add(1)
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{done: make(chan struct{}), cancel: cancel, waiting: 1}
	if c.flights.open == nil {
		c.flights.open = make(map[string]*flight)
	}
	c.flights.open[key] = f
	go func() {
		defer cancel()
		value, err := fill(ctx)
		c.counters.fills.Add(1)
		if err == nil {
			c.Set(ctx, key, value, SetOptions{TTL: o.TTL, StaleFor: max(o.StaleWhileRevalidate, o.StaleIfError), Tags: o.Tags, Fill: true})
		}
		f.entry, f.err = Entry{Value: value, Stored: time.Now(), TTL: o.TTL, Source: Filled}, err
		c.flights.mu.Lock()
		delete(c.flights.open, key)
		c.flights.mu.Unlock()
		close(f.done)
	}()
	return f
}

func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
	}
}
