package realtime

import (
	"container/heap"
	"time"
)

// expiries are a shard's subscriptions that end, the soonest first, so that its beat looks at none that goes
// on. Guarded by the shard's mu.
type expiries []*subscription

// set makes a subscription end then; the zero time means never.
func (e *expiries) set(sub *subscription, at time.Time) {
	if sub.place > 0 {
		heap.Remove(e, sub.place-1)
	}
	if sub.ends = at; !at.IsZero() {
		heap.Push(e, sub)
	}
}

// expire ends the subscriptions that are due. The client subscribes again by itself, with a new token, and goes
// on where it was; for a subscription that the server made it has to connect again. The caller holds mu.
func (s *shard) expire(now time.Time) {
	for len(s.expiring) > 0 && now.After(s.expiring[0].ends) {
		sub := s.expiring[0]
		s.end(sub, unsubscribeExpired, unsubscribeExpiredReason)
		s.expiring.set(sub, time.Time{}) // ended or being joined: either way it is not due any more
	}
}

// end takes a subscription from a client that should want it again: with an unsubscribe it does, if it made the
// subscription itself. The caller holds mu.
func (s *shard) end(sub *subscription, code uint32, reason string) {
	sub.lost = true // whoever is still reading its past tells the client
	if !sub.live {
		return
	}
	if sub.server {
		sub.client.disconnect(disconnectInsufficient)
	} else {
		sub.client.send(sub.client.format.encode(unsubscribed(sub.channel, code, reason)))
	}
	s.unsubscribe(sub)
}

// Len and what follows are container/heap's.

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].ends.Before(e[j].ends) }

func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = i+1, j+1
}

// Push and Pop keep each subscription's place, from 1 on; 0 is none.

func (e *expiries) Push(x any) {
	sub := x.(*subscription)
	*e = append(*e, sub)
	sub.place = len(*e)
}

func (e *expiries) Pop() any {
	last := len(*e) - 1
	sub := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	sub.place = 0
	return sub
}
