package resources

import (
	"context"
	"log/slog"
	"sync"

	"forgewire/cache"
)

// Topic is what changes of resources are announced under, by the transactions that make them: see Service.Hear.
const Topic = "resources"

// everything is the tag of all that the resources cache.
const everything = "resources"

// maxHeard bounds what was heard and is not forgotten yet. Above it everything is forgotten instead.
const maxHeard = 1024

// invalidator forgets what the cache has of resources that have changed. What is heard comes from the listener, which
// must not wait, so it is queued; run works it off.
type invalidator struct {
	cache  *cache.Cache
	logger *slog.Logger
	woken  chan struct{}

	mu      sync.Mutex
	tags    map[string]bool
	all     bool
	started bool
}

func newInvalidator(c *cache.Cache, logger *slog.Logger) *invalidator {
	return &invalidator{cache: c, logger: logger, woken: make(chan struct{}, 1), tags: map[string]bool{}}
}

// Hear takes what was announced under Topic: the tag of what has changed, or nil where some announcement may have been
// missed. At the start nothing was, since nothing was cached here.
func (s *Service) Hear(data []byte) { s.heard.hear(data) }

func (i *invalidator) hear(data []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case data != nil && len(i.tags) < maxHeard:
		i.tags[string(data)] = true
	case data == nil && !i.started:
		i.started = true
		return
	default:
		i.all = true
		clear(i.tags)
	}
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

func (i *invalidator) run(ctx context.Context) error {
	for {
		select {
		case <-i.woken:
		case <-ctx.Done():
			return nil
		}
		i.mu.Lock()
		tags := make([]string, 0, len(i.tags)+1)
		for tag := range i.tags {
			tags = append(tags, tag)
		}
		if i.all {
			tags = append(tags, everything)
		}
		clear(i.tags)
		i.all = false
		i.mu.Unlock()
		for _, tag := range tags {
			i.forgetNow(ctx, tag)
		}
	}
}

// forgetNow forgets what has a tag. Where Valkey is away, the cache has forgotten its own copies, and does the rest
// when Valkey is back.
func (i *invalidator) forgetNow(ctx context.Context, tag string) {
	if err := i.cache.Heard(ctx, tag); err != nil {
		i.logger.DebugContext(ctx, "a changed resource could not be purged yet", "error", err)
	}
}
