package cache

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// fly finds out who fills, does so if it is us, and stores what came of it unless
// the key was deleted, or one of its tags purged, since before the fill began.
func (c *Cache) fly(ctx context.Context, name string, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	if c.remote == nil {
		return c.flyLocal(ctx, name, o, fill)
	}
	l, found, leased := c.remote.seek(ctx, name)
	if found != nil {
		return found.entry(Remote, time.Now()), nil
	}
	if err := ctx.Err(); err != nil {
		return Entry{}, fmt.Errorf("wait for another's fill: %w", err)
	}
	if !leased {
		return c.fillAlone(ctx, o, fill)
	}
	tags, err := c.remote.tokens(ctx, tagNames(o.Tags), true)
	storable := err == nil
	holding, release := context.WithCancel(ctx)
	held := make(chan struct{})
	go func() {
		defer close(held)
		c.remote.hold(holding, l)
	}()
	value, err := c.fill(ctx, fill)
	release()
	<-held
	// The caller may have gone by now; what it asked for is still worth keeping.
	ctx = context.WithoutCancel(ctx)
	rec, ok := newRecord(value, o.TTL, o.staleFor(), o.Tags)
	if err != nil || !ok || !storable {
		c.remote.yield(ctx, l)
		return filled(value, o), err
	}
	c.remote.fulfil(ctx, l, rec, tags)
	return rec.entry(Filled, time.Now()), nil
}

func (c *Cache) flyLocal(ctx context.Context, name string, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	m := c.local.marks(name, tagNames(o.Tags))
	// Another flight may have landed between our look and this one.
	now := time.Now()
	if found, ok := c.local.get(name, now); ok && found.fresh(now) {
		return found.entry(Local, now), nil
	}
	value, err := c.fill(ctx, fill)
	if err != nil {
		return Entry{}, err
	}
	rec, ok := newRecord(value, o.TTL, o.staleFor(), o.Tags)
	if !ok {
		return filled(value, o), nil
	}
	c.putLocal(name, rec, m)
	return rec.entry(Filled, time.Now()), nil
}

// fillAlone is a fill that cannot be stored.
func (c *Cache) fillAlone(ctx context.Context, o FetchOptions, fill func(context.Context) ([]byte, error)) (Entry, error) {
	value, err := c.fill(ctx, fill)
	return filled(value, o), err
}

// fill calls the caller's function. It runs in a goroutine of ours, where a panic
// would end the process: it becomes an error, which says where.
func (c *Cache) fill(ctx context.Context, fill func(context.Context) ([]byte, error)) (value []byte, err error) {
	c.counters.fills.Add(1)
	defer func() {
		if p := recover(); p != nil {
			value, err = nil, fmt.Errorf("%w: %v\n%s", ErrFillPanicked, p, debug.Stack())
		}
	}()
	return fill(ctx)
}

func filled(value []byte, o FetchOptions) Entry {
	return Entry{Value: value, Stored: time.Now(), TTL: max(o.TTL, 0), Source: Filled}
}

func (o *FetchOptions) staleFor() time.Duration { return max(o.StaleWhileRevalidate, o.StaleIfError) }
