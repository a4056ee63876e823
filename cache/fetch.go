package cache

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// refreshTimeout bounds a fill that nobody waits for, and maxRefreshes how many
	// there are; above it the stale entry is served and a later caller tries.
	refreshTimeout = time.Minute
	maxRefreshes   = 64
)

// Fetch returns the cached entry, or fills it: whoever misses a key at the same time
// shares one call of fill, in this process and, with Valkey, in all of them. The
// fill's context has the values of the first caller's context; it ends when nobody
// in this process waits any more. An error is fill's own or ctx's; nothing is stored
// then, and others that waited in other replicas try for themselves.
func (c *Cache) Fetch(ctx context.Context, key string, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	name := valueName(key)
	e, ok := c.look(ctx, name, func() {})
	now := time.Now()
	if ok && (!e.Stale || e.staleFor(now) <= o.StaleWhileRevalidate) {
		c.count(e, true)
		if e.Stale {
			c.refresh(ctx, name, o, fill)
		}
		return e, nil
	}
	filled, err := c.wait(ctx, name, o, fill)
	switch {
	case err != nil && ok && e.staleFor(time.Now()) <= o.StaleIfError:
		c.count(e, true)
		return e, nil
	case err == nil && filled.Source != Filled:
		c.count(filled, true)
	default:
		c.count(Entry{}, false)
	}
	return filled, err
}

// flights are the fills under way in this process, one a key.
type flights struct {
	mu        sync.Mutex
	open      map[string]*flight
	refreshes int // those that nobody waited for at first
	ended     bool
	wg        sync.WaitGroup
}

// flight is one fill and those who wait for it.
type flight struct {
	done    chan struct{} // closed when entry and err are set
	entry   Entry
	err     error
	cancel  context.CancelFunc
	waiting int  // guarded by flights.mu
	refresh bool // goes on when nobody waits
	marks   marks
}

// wait joins the flight for a name, or begins one, and waits for its end.
func (c *Cache) wait(ctx context.Context, name string, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	fs := &c.flights
	fs.mu.Lock()
	f := fs.open[name]
	switch {
	// Whoever deletes and then fetches must not get what was made before.
	case f != nil && c.local.valid(name, f.marks):
		f.waiting++
		c.counters.joined.Add(1)
	case fs.ended: // nobody would wait for it
		fs.mu.Unlock()
		return c.fillAlone(ctx, o, fill)
	default:
		f = c.depart(ctx, name, o, fill, &flight{waiting: 1})
	}
	fs.mu.Unlock()
	select {
	case <-f.done:
		return f.entry, f.err
	case <-ctx.Done():
		fs.leave(name, f)
		return Entry{}, fmt.Errorf("wait for the fill: %w", ctx.Err())
	}
}

// refresh fills a name in the background, unless that is under way.
func (c *Cache) refresh(ctx context.Context, name string, o FetchOptions, fill func(context.Context) ([]byte, error)) {
	fs := &c.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.open[name] != nil || fs.ended || fs.refreshes >= maxRefreshes {
		return
	}
	fs.refreshes++
	c.depart(ctx, name, o, fill, &flight{refresh: true})
}

// depart begins a flight. The caller holds the lock.
func (c *Cache) depart(ctx context.Context, name string, o FetchOptions, fill func(context.Context) ([]byte, error), f *flight) *flight {
	ctx = context.WithoutCancel(ctx)
	if f.refresh {
		ctx, f.cancel = context.WithTimeout(ctx, refreshTimeout)
	} else {
		ctx, f.cancel = context.WithCancel(ctx)
	}
	f.done = make(chan struct{})
	f.marks = c.local.marks(name, tagNames(o.Tags))
	c.flights.open[name] = f
	c.flights.wg.Go(func() {
		f.entry, f.err = c.fly(ctx, name, o, fill)
		f.cancel()
		c.flights.land(name, f)
	})
	return f
}

// land ends a flight: who comes after it looks again.
func (fs *flights) land(name string, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.open[name] == f {
		delete(fs.open, name)
	}
	if f.refresh {
		fs.refreshes--
	}
	close(f.done)
}

// leave is for a caller that waits no longer. The last one ends the fill, and who
// comes after it must not join what is about to fail.
func (fs *flights) leave(name string, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 && !f.refresh {
		f.cancel()
		if fs.open[name] == f {
			delete(fs.open, name)
		}
	}
}

// end lets no flight begin any more, ends those that nobody waits for, and waits for
// the others.
func (fs *flights) end() {
	fs.mu.Lock()
	fs.ended = true
	for _, f := range fs.open {
		if f.waiting == 0 {
			f.cancel()
		}
	}
	fs.mu.Unlock()
	fs.wg.Wait()
}
