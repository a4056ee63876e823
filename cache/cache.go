package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// maxKeyBytes bounds the keys on the wire and in a notice; a longer one is hashed.
const maxKeyBytes = 256

// Cache is the cache of one replica. All methods may be called at any time, also
// before Run and after it.
type Cache struct {
	cfg      Config
	local    *local
	counters counters
	flights  flights
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
	return &Cache{cfg: cfg, local: l}, nil
}

// Run connects, and returns when ctx has ended and all that was started has too.
func (c *Cache) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Get looks a key up. An entry that is past its TTL, but was stored with a stale
// time that is not over, is returned marked Stale. It never fails: a cache that
// cannot be used has nothing.
func (c *Cache) Get(_ context.Context, key string) (Entry, bool) {
	key = short(key)
	now := time.Now()
	if found, ok := c.local.get(key, now); ok {
		c.counters.localHits.Add(1)
		return found.entry(Local, now), true
	}
	c.counters.misses.Add(1)
	return Entry{}, false
}

// Set stores a value. It returns once it is stored, or could not be.
func (c *Cache) Set(_ context.Context, key string, value []byte, o SetOptions) {
	if o.TTL <= 0 || len(value) > MaxValueBytes || len(o.Tags) > MaxTags {
		return
	}
	key = short(key)
	c.local.drop(key)
	now := time.Now()
	r := record{value: bytes.Clone(value), stored: now, ttl: min(o.TTL, MaxLife), tags: slices.Clone(o.Tags)}
	r.stale = min(max(o.StaleFor, 0), MaxLife-r.ttl)
	c.local.put(key, &copied{record: r, marks: c.local.marks(key, o.Tags), until: r.end()})
	c.counters.sets.Add(1)
}

// Delete removes keys here and, at the latest one notification later, on every replica.
func (c *Cache) Delete(_ context.Context, keys ...string) {
	for _, key := range keys {
		c.local.drop(short(key))
	}
}

// Purge removes all values that have one of the tags, on every replica, also those
// that Fetch is filling. On an error other replicas may have them still.
func (c *Cache) Purge(_ context.Context, tags ...string) error {
	for _, tag := range tags {
		c.local.purge(tag)
	}
	return nil
}

// Announced takes what came over the Bus. Nil means that something may have been
// missed: all local copies go. It does not block.
func (c *Cache) Announced(data []byte) {
	if data == nil {
		c.local.clear()
	}
}

// Shrink drops that share (0 to 1) of the local copies, because memory is needed.
func (c *Cache) Shrink(share float64) { c.local.shrink(share) }

// short hashes a key that is too long, and leaves others readable.
func short(key string) string {
	if len(key) <= maxKeyBytes {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}
