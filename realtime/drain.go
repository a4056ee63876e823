package realtime

import (
	"context"
	"math/rand/v2"
	"time"
)

// dismissEvery is the distance between two clients that are told to go, where the grace allows it: what the
// other replicas take is 500 more a second.
const dismissEvery = 2 * time.Millisecond

// dismissals says when each of n clients is told to reconnect elsewhere, in order, so that they do not all
// arrive there at once: spread over the grace, but for its last quarter, in which the last ones answer and
// the publisher ends. Each has its own part of the time, and jitter, a number from 0 to 1, says where in it.
func dismissals(n int, grace time.Duration, jitter func() float64) []time.Duration {
	spread := min(grace*3/4, time.Duration(n)*dismissEvery)
	part := float64(spread) / float64(n)
	at := make([]time.Duration, n)
	for i := range at {
		at[i] = time.Duration(part * (float64(i) + jitter()))
	}
	return at
}

// Drain accepts no connection any more, tells every client to reconnect elsewhere, and waits until they are gone or the
// grace is nearly over. Publishing, reading and following go on until Run's context ends; Run drains by itself if nobody did.
func (n *Node) Drain() {
	n.accepting.Lock()
	n.refuse.Do(func() { close(n.draining) })
	n.accepting.Unlock()
	clients := n.hub.all()
	rand.Shuffle(len(clients), func(i, j int) { clients[i], clients[j] = clients[j], clients[i] })
	start := time.Now()
	for i, at := range dismissals(len(clients), n.cfg.ShutdownTimeout, rand.Float64) {
		if ahead := time.Until(start.Add(at)); ahead > time.Millisecond {
			pause(context.Background(), ahead) // bounded by the grace; nothing can cut it short
		}
		clients[i].disconnect(disconnectShutdown)
	}
	gone := make(chan struct{})
	go func() { n.clients.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(time.Until(start.Add(n.cfg.ShutdownTimeout * 7 / 8))):
		for _, c := range n.hub.all() {
			_ = c.out.Close() // it does not answer, or entered while we looked
		}
		n.endLife() // nor may a command that is under way keep us
		<-gone
	}
}
