package resources

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"

	"forgewire/cache"
)

// Channels is how the channels begin on which changes of what is cached are published: see Service.Overhear.
const Channels = "$"

// cachedKinds are how the ids begin of what is cached, by how the channel of its changes begins.
var cachedKinds = map[string]string{Channels + PromptNamespace: promptPrefix, Channels + DatasetNamespace: datasetPrefix}

// tagOf is the tag of what is cached of one resource.
func tagOf(tenant, id string) string { return "resource " + tenant + " " + id }

// everything is the tag of all that the resources cache.
const everything = "resources"

// maxHeard bounds what was heard and is not forgotten yet. Above it everything is forgotten instead.
const maxHeard = 1024

// invalidator forgets what the cache has of resources that have changed. Whoever makes a change forgets it everywhere
// before he answers. Should he not get so far, every replica overhears that it was published, which is part of the
// transaction. What is heard comes from the listener, which must not wait, so it is queued; run works it off.
type invalidator struct {
	cache  *cache.Cache
	logger *slog.Logger
	woken  chan struct{}

	mu      sync.Mutex
	tags    map[string]bool
	mine    map[string]int // what is forgotten everywhere by who changes it here, and is to be heard so often
	all     bool
	started bool
}

func newInvalidator(c *cache.Cache, logger *slog.Logger) *invalidator {
	return &invalidator{cache: c, logger: logger, woken: make(chan struct{}, 1), tags: map[string]bool{}, mine: map[string]int{}}
}

// Overhear takes what was published on one of Channels, or "" where something may have been missed. At the start nothing
// was, since nothing was cached here. Most of it is no change of ours, but somebody's private channel or an answer's.
func (s *Service) Overhear(channel string, data []byte) {
	if channel == "" {
		s.heard.missed()
		return
	}
	kind, tenant, _ := strings.Cut(channel, ":")
	prefix := cachedKinds[kind]
	if prefix == "" {
		return
	}
	var change struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(data, &change) == nil && isID(prefix, change.ID) { // somebody else published the others
		s.heard.hear(tagOf(tenant, change.ID))
	}
}

func (i *invalidator) hear(tag string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch n := i.mine[tag]; {
	case n > 1:
		i.mine[tag]--
		return
	case n == 1:
		delete(i.mine, tag)
		return
	}
	i.forget(tag)
}

// forget has run forget a tag. Whoever calls it holds the mutex.
func (i *invalidator) forget(tag string) {
	if len(i.tags) < maxHeard {
		i.tags[tag] = true
	} else {
		i.all = true
	}
	i.wake()
}

func (i *invalidator) missed() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.started {
		i.started = true
		return
	}
	i.all = true
	clear(i.mine)
	i.wake()
}

func (i *invalidator) wake() {
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
			if err := i.cache.Heard(ctx, tag); err != nil {
				i.later(ctx, err)
			}
		}
	}
}

// changes is called before a change is committed, since what is published with it may be heard before the commit returns.
// Either changed or unchanged follows.
func (i *invalidator) changes(tag string) {
	if tag == "" {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.mine) >= maxHeard { // what is heard of them is forgotten once more
		clear(i.mine)
	}
	i.mine[tag]++
}

// unchanged takes changes back. Another's change may have been heard in place of the one that did not come, so the tag is
// forgotten here.
func (i *invalidator) unchanged(tag string) {
	if tag == "" {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mine[tag]--; i.mine[tag] <= 0 {
		delete(i.mine, tag)
	}
	i.forget(tag)
}

// changed forgets, on every replica, what has a tag that was changed here.
func (i *invalidator) changed(ctx context.Context, tag string) {
	if tag == "" {
		return
	}
	if err := i.cache.Purge(ctx, tag); err != nil {
		i.later(ctx, err)
		i.unchanged(tag)
	}
}

// later says that Valkey is away: the cache has forgotten its own copies, and does the rest when Valkey is back.
func (i *invalidator) later(ctx context.Context, err error) {
	i.logger.DebugContext(ctx, "a changed resource could not be purged yet", "error", err)
}
