package cache

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	stripes       = 4096
	entryOverhead = 256 // what a copy costs beside its key and its bytes, roughly
)

// local is the bounded set of copies in this process, the only tier where there
// is no Valkey. Keys and tags share a fixed number of marks; what invalidates one
// raises its mark. A copy is good only while the marks that were read before its
// value was have not moved, so a value that was on its way when it was invalidated
// is never kept, and a purge costs the same however much it hits. Two names on one
// mark cost a miss now and then, never a wrong answer.
type local struct {
	bytes  int64 // that the copies may usually take
	copies *otter.Cache[string, *copied]
	seed   maphash.Seed
	keys   [stripes]atomic.Uint64
	tags   [stripes]atomic.Uint64
	all    atomic.Uint64
	awake  atomic.Pointer[time.Time] // when we last were; nil while nobody watches
}

// copied is one local copy.
type copied struct {
	record
	marks marks
	until time.Time // not used after this, whatever the record says
}

// marks is what was read of the marks before a value was.
type marks struct {
	key, all uint64
	tags     []tagMark
}

type tagMark struct {
	stripe uint64
	mark   uint64
}

func newLocal(bytes int64) (*local, error) {
	copies, err := otter.New(&otter.Options[string, *copied]{
		MaximumWeight: uint64(bytes),
		Weigher: func(key string, c *copied) uint32 {
			return uint32(len(key) + len(c.value) + entryOverhead) // MaxValueBytes keeps it in 32 bits
		},
	})
	if err != nil {
		return nil, err
	}
	return &local{bytes: bytes, copies: copies, seed: maphash.MakeSeed()}, nil
}

func (l *local) stripe(name string) uint64 { return maphash.String(l.seed, name) % stripes }

// marks reads the marks for a value that is about to be read or made.
func (l *local) marks(key string, tags []string) marks {
	m := marks{key: l.keys[l.stripe(key)].Load(), all: l.all.Load()}
	return l.withTags(m, tags)
}

// withTags adds the marks of tags, which are known only once the value is.
func (l *local) withTags(m marks, tags []string) marks {
	if len(tags) == 0 {
		return m
	}
	m.tags = make([]tagMark, len(tags))
	for i, tag := range tags {
		s := l.stripe(tag)
		m.tags[i] = tagMark{stripe: s, mark: l.tags[s].Load()}
	}
	return m
}

// valid tells whether nothing was invalidated since m was read.
func (l *local) valid(key string, m marks) bool {
	if l.all.Load() != m.all || l.keys[l.stripe(key)].Load() != m.key {
		return false
	}
	return l.tagsValid(m)
}

func (l *local) tagsValid(m marks) bool {
	for _, t := range m.tags {
		if l.tags[t.stripe].Load() != t.mark {
			return false
		}
	}
	return true
}

func (l *local) get(key string, now time.Time) (*copied, bool) {
	c, ok := l.copies.GetIfPresent(key)
	if !ok || l.asleep(now) {
		return nil, false
	}
	// The mark of the key is not looked at: it is shared, and an invalidated key's copy is gone.
	if c.marks.all != l.all.Load() || !l.tagsValid(c.marks) || now.After(c.until) {
		l.copies.Invalidate(key)
		return nil, false
	}
	return c, true
}

// put keeps a copy, unless something was invalidated since the marks were read.
// It says whether it did.
func (l *local) put(key string, c *copied) bool {
	if !l.valid(key, c.marks) {
		return false
	}
	l.copies.Set(key, c)
	// An invalidation between the look and the Set found nothing to drop.
	if !l.valid(key, c.marks) {
		l.copies.Invalidate(key)
		return false
	}
	return true
}

// drop invalidates a key: its copy, and what is on the way to become one.
func (l *local) drop(key string) {
	l.keys[l.stripe(key)].Add(1)
	l.copies.Invalidate(key)
}

// forget invalidates a name: a value's copy, or with a tag's all that has it.
func (l *local) forget(name string) {
	l.drop(name)
	if isTag(name) {
		l.tags[l.stripe(name)].Add(1)
	}
}

// clear invalidates everything.
func (l *local) clear() {
	l.all.Add(1)
	l.copies.InvalidateAll()
}

// shrink bounds the copies to a share of what they may usually take, and drops at once what is above it, least used first.
func (l *local) shrink(share float64) {
	l.copies.SetMaximum(uint64(float64(l.bytes) * share))
	l.copies.CleanUp() // the memory is wanted now
}

func (l *local) size() (bytes, entries int64) {
	return int64(l.copies.WeightedSize()), int64(l.copies.EstimatedSize())
}
