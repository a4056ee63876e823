package cache

import "context"

// Heard is Purge for those that every replica tells by itself: without Valkey it empties this process's copies
// alone and announces nothing, where N replicas that hear of one change would tell each other N times.
func (c *Cache) Heard(ctx context.Context, tags ...string) error {
	if c.remote != nil {
		return c.Purge(ctx, tags...)
	}
	for _, name := range tagNames(tags) {
		c.local.forget(name)
	}
	return nil
}
