package realtime

import "sync"

// stats counts what happened on this replica since it started.
type stats struct {
	disconnects counts
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
