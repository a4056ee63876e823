package realtime

import (
	"sync"
	"sync/atomic"
)

// stats counts what happened on this replica since it started.
type stats struct {
	disconnects counts
	hooks       struct {
		failed  atomic.Uint64 // calls that were not answered as they must
		refused atomic.Uint64 // calls that were not made: too many were under way
	}
	webhooks struct {
		delivered atomic.Uint64 // requests that the receiver took
		failed    atomic.Uint64 // attempts that it did not take, which are made again
		discarded atomic.Uint64 // requests that it never took in all the days
		dropped   atomic.Uint64 // events that were lost while the database was away for too long
	}
}

// counts are numbers by reason.
type counts struct {
	mu sync.Mutex
	by map[uint16]uint64
}

func (c *counts) add(d *Disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[uint16]uint64{}
	}
	c.by[d.Code]++
}
