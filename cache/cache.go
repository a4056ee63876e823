package cache

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/infra/monitor"
)

// Cache is the cache of one replica. All methods may be called at any time, also
// before Run and after it.
type Cache struct {
	local    *local
	remote   *remote // nil without Valkey
	notices  *notices
	flights  flights
	counters counters
}

// New makes a cache. It connects to nothing and starts nothing.
func New(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l, err := newLocal(cfg.LocalBytes)
	if err != nil {
		return nil, fmt.Errorf("make the local tier: %w", err)
	}
	c := &Cache{local: l, notices: newNotices(cfg.Bus, cfg.Log)}
	c.flights.open = make(map[string]*flight)
	if cfg.URL != "" {
		if c.remote, err = newRemote(cfg, l, &c.counters); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Run connects to Valkey, or carries notices to the other replicas. When ctx ends it
// waits for the fills and calls under way, and after it nothing is cached any more;
// so let ctx end after the last request has.
func (c *Cache) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.local.watch(ctx) })
	if c.remote != nil {
		g.Go(func() error { return c.remote.run(ctx) })
	} else if c.notices.bus != nil {
		g.Go(func() error { return c.notices.run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		c.flights.end()
		return nil
	})
	return g.Wait()
}

// Get looks a key up. An entry that is past its TTL, but was stored with a stale
// time that is not over, is returned marked Stale. It never fails: a cache that
// cannot be used has nothing.
func (c *Cache) Get(ctx context.Context, key string) (Entry, bool) {
	return c.GetWhile(ctx, key, func() {})
}

// GetWhile is Get. If Valkey has to be asked, meanwhile is called once it has been, before the answer is there: what
// it begins takes no time of its own. It must not block.
func (c *Cache) GetWhile(ctx context.Context, key string, meanwhile func()) (Entry, bool) {
	e, ok := c.look(ctx, valueName(key), meanwhile)
	c.count(e, ok)
	return e, ok
}

func (c *Cache) look(ctx context.Context, name string, meanwhile func()) (Entry, bool) {
	now := time.Now()
	if found, ok := c.local.get(name, now); ok {
		return found.entry(Local, now), true
	}
	defer monitor.Span(ctx, monitor.Cache).End()
	if c.remote == nil {
		return Entry{}, false
	}
	rec, ok := c.remote.get(ctx, name, meanwhile)
	if !ok {
		return Entry{}, false
	}
	return rec.entry(Remote, time.Now()), true
}

func (c *Cache) count(e Entry, ok bool) {
	switch {
	case !ok:
		c.counters.misses.Add(1)
		return
	case e.Source == Local:
		c.counters.localHits.Add(1)
	default:
		c.counters.remoteHits.Add(1)
	}
	if e.Stale {
		c.counters.staleHits.Add(1)
	}
}

// Set stores a value, in place of an older one everywhere. It returns once that is
// done, or after 50 ms (100 ms with tags): if it could not be done then the older one, unless
// o.Fill is set, is deleted as soon as it can be.
//
// A value that takes long to make is better stored by Fetch: it drops what was
// deleted or purged while it was made.
func (c *Cache) Set(ctx context.Context, key string, value []byte, o SetOptions) {
	rec, ok := newRecord(value, o.TTL, o.StaleFor, o.Tags)
	if !ok {
		return
	}
	name := valueName(key)
	c.local.drop(name)
	if c.remote != nil {
		c.remote.set(ctx, name, rec, o.Fill)
		return
	}
	c.putLocal(name, rec, c.local.marks(name, rec.tags))
	if !o.Fill {
		c.notices.add(name)
	}
}

// putLocal stores where this process is the only tier.
func (c *Cache) putLocal(name string, rec record, m marks) {
	if c.local.put(name, &copied{record: rec, marks: m, until: rec.end()}) {
		c.counters.sets.Add(1)
	}
}

// Delete removes keys on every replica, also those that Fetch is filling now. On an error this replica has none of
// them any more, and others are told as soon as they can be; until then they may serve them. If it is Valkey that does
// not answer, the keys are remembered (16,384 of them) and deleted when it is back.
func (c *Cache) Delete(ctx context.Context, keys ...string) error {
	return c.remove(ctx, valueNames(keys))
}

// Drop is Delete for who does not wait until the others have heard of it.
func (c *Cache) Drop(ctx context.Context, keys ...string) {
	if names := valueNames(keys); c.remote != nil {
		_ = c.remote.remove(ctx, names) // counted, and remembered
	} else {
		c.removeLocal(names)
	}
}

// Purge is Delete for all values that have one of the tags.
func (c *Cache) Purge(ctx context.Context, tags ...string) error {
	return c.remove(ctx, tagNames(tags))
}

func (c *Cache) remove(ctx context.Context, names []string) error {
	if c.remote != nil {
		if err := c.remote.remove(ctx, names); err != nil {
			return fmt.Errorf("remove from the cache, which is done later: %w", err)
		}
		return nil
	}
	c.removeLocal(names)
	err := c.notices.flush(ctx) // without a bus nothing is queued
	if err != nil {
		c.notices.add() // no name, but run tries again: it may have found nothing to send while we had it
	}
	return err
}

func (c *Cache) removeLocal(names []string) {
	for _, name := range names {
		c.local.forget(name)
	}
	c.notices.add(names...)
}

// Announced takes what came over the Bus; nil means that something may have been
// missed. It does not block. With Valkey it has nothing to do.
func (c *Cache) Announced(data []byte) {
	switch {
	case c.remote != nil:
	case data == nil:
		c.local.clear()
	default:
		c.notices.announced(c.local, data)
	}
}

// Shrink lets local copies take that share (0 to 1) of LocalBytes from now on, because memory is needed elsewhere; 1 when it no
// longer is.
func (c *Cache) Shrink(share float64) { c.local.shrink(share) }
