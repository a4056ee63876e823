package cache

import (
	"context"
	"strconv"
	"strings"

	"github.com/valkey-io/valkey-go"
)

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

// Add adds another replica's figures. What the server says is the same for all, so one of them counts.
func (s *Stats) Add(o Stats) {
	if s.State == "" || o.State == StateUnavailable { // the worst is what there is to know
		s.State = o.State
	}
	s.LocalHits += o.LocalHits
	s.RemoteHits += o.RemoteHits
	s.StaleHits += o.StaleHits
	s.Misses += o.Misses
	s.Fills += o.Fills
	s.Joined += o.Joined
	s.Sets += o.Sets
	s.Errors += o.Errors
	s.Skipped += o.Skipped
	s.Corrupt += o.Corrupt
	s.BytesSaved += o.BytesSaved
	s.LocalBytes += o.LocalBytes
	s.LocalEntries += o.LocalEntries
	s.Pending += o.Pending
	if s.Server == nil {
		s.Server = o.Server
	}
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

// Stats returns the counters. It asks the server for its part, and only then.
func (c *Cache) Stats(ctx context.Context) Stats {
	s := c.Counted()
	if c.remote != nil {
		s.Server = c.remote.stats(ctx)
	}
	return s
}

// Counted is Stats without what the server says: it asks nobody.
func (c *Cache) Counted() Stats {
	s := c.counters.snapshot()
	s.State = c.State()
	s.LocalBytes, s.LocalEntries = c.local.size()
	if c.remote != nil {
		s.Pending = c.remote.pending.count.Load()
	}
	return s
}

// State tells where values are kept at the moment.
func (c *Cache) State() State {
	switch {
	case c.remote == nil:
		return StateLocal
	case c.remote.breaker.isOpen():
		return StateUnavailable
	case c.remote.tracking.Load():
		return StateTracking
	}
	return StateNoTracking
}

func (r *remote) stats(ctx context.Context) *ServerStats {
	s, err := call(ctx, r, func(ctx context.Context, v valkey.Client) (*ServerStats, error) {
		var s ServerStats
		// One section at a time: old servers take no more.
		for _, section := range []string{"memory", "clients"} {
			text, err := v.Do(ctx, v.B().Info().Section(section).Build()).ToString()
			if err != nil {
				return nil, err
			}
			s.parse(text)
		}
		return &s, nil
	})
	if err != nil {
		return nil
	}
	return s
}

// parse reads the lines of INFO that we know.
func (s *ServerStats) parse(info string) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue // not a number, so none of ours
		}
		switch name {
		case "used_memory":
			s.MemoryBytes = n
		case "maxmemory":
			s.MaxMemoryBytes = n
		case "connected_clients":
			s.Clients = n
		}
	}
}
