package realtime

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/centrifugal/protocol"
	"golang.org/x/sync/errgroup"
)

// hub knows this replica's clients and hands them what the follower found. Clients are spread over shards,
// so that a channel with many subscribers uses every core; each shard hands on in the order of the log.
type hub struct {
	shards []*shard
	seed   maphash.Seed
	count  atomic.Int64 // connections
	in     []*intake    // of each log
	// overhear is fixed once Run has begun.
	overhear []overhearer
}

// newHub makes a hub for messages of so many logs.
func newHub(logs int) *hub {
	h := &hub{seed: maphash.MakeSeed()}
	for place := range logs {
		h.in = append(h.in, &intake{hub: h, place: place, tail: tail{limit: maxTailMessages}})
	}
	for range 2 * runtime.GOMAXPROCS(0) {
		h.shards = append(h.shards, newShard(logs))
	}
	return h
}

func (h *hub) run(ctx context.Context) error {
	var g errgroup.Group
	for _, s := range h.shards {
		g.Go(func() error { return s.run(ctx) })
	}
	return g.Wait()
}

// shardFor chooses by the connection's id.
func (h *hub) shardFor(id string) *shard {
	return h.shards[maphash.String(h.seed, id)%uint64(len(h.shards))]
}

// A burst is what one notification brought for one channel. It is encoded once for each
// format, for everybody, by the first shard that has such a subscriber.
type burst struct {
	channel  string
	log      int    // the place of the log that it came from
	epoch    string // the log's
	messages []*Message
	size     int               // of their data, in bytes
	last     uint64            // the newest one's offset; 0 for ephemeral ones
	news     []*protocol.Reply // joins and leaves, instead of messages
	encoded  [formats]struct {
		once  sync.Once
		bytes []byte
	}
	viewed viewed // for subscriptions that have a view
}

func (b *burst) frame(f format) []byte {
	e := &b.encoded[f]
	e.once.Do(func() {
		if b.news != nil {
			e.bytes = f.encode(b.news...)
			return
		}
		e.bytes = b.encode(f, b.messages)
	})
	return e.bytes
}

func (b *burst) encode(f format, messages []*Message) []byte {
	replies := publications(b.channel, messages)
	if f == events {
		return encodeEvents(b.epoch, replies)
	}
	return f.encode(replies...)
}

// frameAfter is the frame for a subscriber that has everything up to offset.
func (b *burst) frameAfter(f format, offset uint64) []byte {
	if b.last == 0 || offset < b.messages[0].Offset {
		return b.frame(f)
	}
	for i, m := range b.messages {
		if m.Offset > offset {
			return b.encode(f, b.messages[i:])
		}
	}
	return nil
}

func (h *hub) tell(e event) {
	for _, s := range h.shards {
		s.events <- e
	}
}

// channels counts the subscribers of each channel on this replica.
func (h *hub) channels() map[string]int {
	n := map[string]int{}
	for _, s := range h.shards {
		s.mu.Lock()
		for name, c := range s.channels {
			n[name] += len(c.subs)
		}
		s.mu.Unlock()
	}
	return n
}

// all returns every client of now.
func (h *hub) all() (all []*client) {
	for _, s := range h.shards {
		s.mu.Lock()
		for c := range s.clients {
			all = append(all, c)
		}
		s.mu.Unlock()
	}
	return all
}

// clientsOf returns a user's connections on this replica, or the one with that id.
func (h *hub) clientsOf(user, id string) (all []*client) {
	for _, s := range h.shards {
		s.mu.Lock()
		for c := range s.users[user] {
			if id == "" || c.id == id {
				all = append(all, c)
			}
		}
		s.mu.Unlock()
	}
	return all
}
