package cache

import (
	"bytes"
	"time"
)

// record is a value with what is known of it.
type record struct {
	value  []byte
	stored time.Time
	ttl    time.Duration
	stale  time.Duration
	tags   []string // their names in Valkey
}

// newRecord copies value, which is the caller's. ok is false for what may not be stored.
func newRecord(value []byte, ttl, stale time.Duration, tags []string) (r record, ok bool) {
	if ttl <= 0 || len(value) > MaxValueBytes || len(tags) > MaxTags {
		return record{}, false
	}
	// To the millisecond, as it is stored; rounded up, so that a short life is not none.
	r = record{value: bytes.Clone(value), stored: time.Now().Truncate(time.Millisecond), tags: tagNames(tags)}
	r.ttl = min(max(ttl.Truncate(time.Millisecond), time.Millisecond), MaxLife)
	r.stale = min(max(stale.Truncate(time.Millisecond), 0), MaxLife-r.ttl)
	return r, true
}

func (r *record) end() time.Time { return r.stored.Add(r.ttl + r.stale) }

func (r *record) fresh(now time.Time) bool { return now.Sub(r.stored) <= r.ttl }

// staleFor is how long it has been past its TTL.
func (e *Entry) staleFor(now time.Time) time.Duration { return now.Sub(e.Stored) - e.TTL }

func (r *record) entry(from Source, now time.Time) Entry {
	return Entry{Value: r.value, Stored: r.stored, TTL: r.ttl, Source: from, Stale: !r.fresh(now)}
}
