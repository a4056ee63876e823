package cache

import "sync/atomic"

// counters are this process's own.
type counters struct {
	localHits, remoteHits, staleHits, misses atomic.Int64
	fills, joined, sets                      atomic.Int64
	errors, skipped, corrupt, saved          atomic.Int64
}

func (c *counters) snapshot() Stats {
	return Stats{
		LocalHits: c.localHits.Load(), RemoteHits: c.remoteHits.Load(), StaleHits: c.staleHits.Load(),
		Misses: c.misses.Load(), Fills: c.fills.Load(), Joined: c.joined.Load(), Sets: c.sets.Load(),
		Errors: c.errors.Load(), Skipped: c.skipped.Load(), Corrupt: c.corrupt.Load(), BytesSaved: c.saved.Load(),
	}
}
