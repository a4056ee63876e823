package db

import (
	"context"
	"time"
)

// Round is one round of the jobs, now.
func (c *Cleanup) Round(ctx context.Context) { c.round(ctx) }

// SetEvery makes rounds come at other times.
func (c *Cleanup) SetEvery(d time.Duration) { c.every = d }
