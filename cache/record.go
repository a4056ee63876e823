package cache

import "time"

// record is a value with what is known of it.
type record struct {
	value  []byte
	stored time.Time
	ttl    time.Duration
	stale  time.Duration
	tags   []string
}

func (r *record) end() time.Time { return r.stored.Add(r.ttl + r.stale) }

func (r *record) entry(from Source, now time.Time) Entry {
	return Entry{Value: r.value, Stored: r.stored, TTL: r.ttl, Source: from, Stale: now.Sub(r.stored) > r.ttl}
}
