package realtime

import (
	"strings"
	"sync"
	"sync/atomic"
)

// intake is where one log's messages enter the hub. Its follower's goroutine alone tells it of them.
type intake struct {
	hub   *hub
	place int                    // the log's, in the set of logs
	epoch string                 // the log's; owned by whoever delivers
	known atomic.Pointer[string] // the epoch, once every shard has it: each publish is answered with it, and must not wait for a shard
	tail  tail
	// arrivals knows when notifications came, and how long ours were under way.
	arrivals arrivals
}

// deliver implements audience; the listener also calls it with messages that have no offset: ephemeral ones.
// It waits while a shard is so far behind that its queue is full: then the listener reads no further, and
// Postgres keeps what comes.
func (in *intake) deliver(messages []Message) {
	if messages[0].Offset != 0 {
		in.tail.add(messages)
	}
	var bursts []*burst
	byChannel := make(map[string]*burst, 1)
	for i := range messages {
		m := &messages[i]
		for _, o := range in.hub.overhear {
			if strings.HasPrefix(m.Channel, o.prefix) {
				o.f(m.Channel, m.Data)
			}
		}
		b := byChannel[m.Channel]
		if b == nil {
			b = &burst{channel: m.Channel, log: in.place, epoch: in.epoch}
			byChannel[m.Channel] = b
			bursts = append(bursts, b)
		}
		b.messages = append(b.messages, m)
		b.size += m.size()
		b.last = m.Offset
	}
	in.arrivals.delivered(messages)
	in.tell(event{bursts: bursts, at: messages[len(messages)-1].Offset}) // 0 for ephemeral ones
}

func (in *intake) lost(survived uint64) {
	in.tail.truncate(survived)
	in.tell(event{lost: true, at: survived})
}

func (in *intake) reset(at Position) {
	in.epoch = at.Epoch
	in.tail.reset(at)
	var left atomic.Int32
	left.Store(int32(len(in.hub.shards)))
	in.tell(event{reset: true, at: at.Offset, epoch: at.Epoch, handled: func() {
		if left.Add(-1) == 0 {
			in.known.Store(&at.Epoch)
		}
	}})
}

// catchUp waits until the shards have dealt with what they were told.
func (in *intake) catchUp() {
	var handled sync.WaitGroup
	handled.Add(len(in.hub.shards))
	in.tell(event{handled: handled.Done})
	handled.Wait()
}

func (in *intake) tell(e event) {
	e.log = in.place
	in.hub.tell(e)
}

// position is how far the log was handed on to every shard: where the one stands that is furthest behind.
func (in *intake) position() (p Position) {
	for i, s := range in.hub.shards {
		s.mu.Lock()
		if head := s.heads[in.place]; i == 0 || head.Offset < p.Offset {
			p = head
		}
		s.mu.Unlock()
	}
	return p
}
