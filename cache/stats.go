package cache

import "context"

// State is where the cache keeps its values at the moment.
type State string

// The states.
const (
	StateLocal       State = "local"       // no Valkey is configured: each replica has its own
	StateTracking    State = "tracking"    // Valkey, with local copies that it invalidates
	StateNoTracking  State = "no-tracking" // Valkey without tracking: local copies live for a second
	StateUnavailable State = "unavailable" // Valkey is away: every look-up is a miss
)

// Stats counts what this process did since it started, and what it holds.
type Stats struct {
	State State `json:"state"`

	LocalHits  int64 `json:"local_hits"`
	RemoteHits int64 `json:"remote_hits"`
	StaleHits  int64 `json:"stale_hits"` // among the hits
	Misses     int64 `json:"misses"`
	Fills      int64 `json:"fills"`  // calls of a fill function
	Joined     int64 `json:"joined"` // calls of Fetch that waited for another's fill
	Sets       int64 `json:"sets"`
	Errors     int64 `json:"errors"`  // calls of Valkey that failed or came too late
	Skipped    int64 `json:"skipped"` // calls that were not made because Valkey is away or too busy
	Corrupt    int64 `json:"corrupt"` // values that were not ours, of another version or damaged

	BytesSaved   int64 `json:"bytes_saved"` // by compression, of all that was written
	LocalBytes   int64 `json:"local_bytes"`
	LocalEntries int64 `json:"local_entries"`
	Pending      int64 `json:"pending"` // deletes and purges that wait for Valkey

	// What the server says; nil where there is none or it does not answer.
	Server *ServerStats `json:"server,omitempty"`
}

// HitRate is the share of look-ups that found something, 0 to 1.
func (s Stats) HitRate() float64 {
	hits := s.LocalHits + s.RemoteHits
	if hits+s.Misses == 0 {
		return 0
	}
	return float64(hits) / float64(hits+s.Misses)
}

// ServerStats is what Valkey says of itself: of one node in a cluster.
type ServerStats struct {
	MemoryBytes    int64 `json:"memory_bytes"`
	MaxMemoryBytes int64 `json:"max_memory_bytes"` // 0: no bound
	Clients        int64 `json:"clients"`
}

// Stats returns the counters. It asks the server for its part, and does so only here.
func (c *Cache) Stats(_ context.Context) Stats {
	s := c.counters.snapshot()
	s.State = c.State()
	s.LocalBytes, s.LocalEntries = c.local.size()
	return s
}

// State tells where values are kept at the moment.
func (c *Cache) State() State { return StateLocal }
