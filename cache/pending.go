package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	maxPending   = 16384
	settleBatch  = 128
	settleBudget = time.Second
)

// pending are the names that must still be deleted in Valkey because it could not
// be told. Until then this replica does not read them.
type pending struct {
	count atomic.Int64 // len(names), to look at without the lock
	mu    sync.Mutex
	names map[string]uint64 // and when each was last added
	adds  uint64
	lost  bool // more were to be remembered than may be
}

// add remembers names and says whether all of them fit.
func (p *pending) add(names ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = make(map[string]uint64)
	}
	p.adds++
	for _, name := range names {
		if _, ok := p.names[name]; !ok && len(p.names) >= maxPending {
			p.lost = true
			return false
		}
		p.names[name] = p.adds
	}
	p.count.Store(int64(len(p.names)))
	return true
}

func (p *pending) has(name string) bool {
	if p.count.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.names[name]
	return ok
}

// some returns a batch; they stay until done. asOf is for done.
func (p *pending) some() (names []string, asOf uint64, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.names {
		if names = append(names, name); len(names) == settleBatch {
			break
		}
	}
	lost, p.lost = p.lost, false
	return names, p.adds, lost
}

// done forgets names, except those that were added again meanwhile.
func (p *pending) done(names []string, asOf uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if p.names[name] <= asOf {
			delete(p.names, name)
		}
	}
	p.count.Store(int64(len(p.names)))
}

// remember keeps names for later, when Valkey could not be told to delete them.
func (r *remote) remember(names ...string) {
	r.pending.add(names...)
	r.poke()
}

// settle deletes what is pending. It says whether nothing is left.
func (r *remote) settle(ctx context.Context) bool {
	for r.pending.count.Load() > 0 {
		client := r.client.Load()
		if client == nil || r.breaker.isOpen() || ctx.Err() != nil {
			return false
		}
		names, asOf, lost := r.pending.some()
		if lost {
			r.log.ErrorContext(ctx, "more keys were deleted while the cache was away than can be remembered: other replicas may serve some until they expire", "remembered", maxPending)
		}
		within, cancel := context.WithTimeout(ctx, settleBudget)
		replies := (*client).DoMulti(within, deletions(*client, names)...)
		cancel()
		for _, reply := range replies {
			if reply.Error() != nil {
				return false
			}
		}
		for _, name := range names {
			r.local.forget(name)
		}
		r.pending.done(names, asOf)
	}
	return true
}

// deletions are the commands that delete names; a value's lease goes with it, so
// that a fill under way, which may have read what was true before, is not stored.
func deletions(client valkey.Client, names []string) []valkey.Completed {
	commands := make([]valkey.Completed, len(names))
	for i, name := range names {
		if isTag(name) {
			commands[i] = client.B().Del().Key(name).Build()
		} else {
			commands[i] = client.B().Del().Key(name, leaseName(name)).Build()
		}
	}
	return commands
}
