package realtime

import (
	"context"
	"fmt"
)

// maxAnnounced bounds the data of one announcement, in bytes: with its envelope it must fit into a notification.
const maxAnnounced = 4096

// Announce tells every replica, this one too, something that need not outlive the moment: that a cached value
// is no longer good, that a key was revoked. It is not stored. Whoever listens for the topic hears it within a
// notification, or hears that something may have been missed; see Hear. Data has at most maxAnnounced bytes.
//
// Announcements that arrive while one is under way share the next round trip.
func (n *Node) Announce(ctx context.Context, topic string, data []byte) error {
	if len(data) > maxAnnounced {
		return ErrLimitExceeded.With(fmt.Sprintf("an announcement has at most %d bytes", maxAnnounced))
	}
	return n.relay.forward(ctx, control{Op: opAnnounce, Channel: topic, Data: data})
}

// Hear calls f with each announcement of a topic, and with nil whenever this replica may have missed some: at
// the start, and after its connection to the database was lost. f must not block: the listener waits for it.
// Hear must be called before Run.
func (n *Node) Hear(topic string, f func(data []byte)) {
	n.hearers[topic] = append(n.hearers[topic], f)
}

// Overhear calls f with each publication that this replica gets on channels that begin with prefix, whether anybody has
// subscribed or not, and with "" as the channel whenever some may have been missed, as Hear does with nil. What must be
// heard by everybody if, and only if, a transaction commits, and is published anyhow, needs no announcement, whose NOTIFY would make the
// commits of the database wait for each other. f must not block. Overhear must be called before Run.
func (n *Node) Overhear(prefix string, f func(channel string, data []byte)) {
	n.hub.overhear = append(n.hub.overhear, overhearer{prefix, f})
}

// overhearer is who is told of publications on this replica.
type overhearer struct {
	prefix string
	f      func(channel string, data []byte)
}

func (n *Node) announced(topic string, data []byte) {
	if data == nil {
		data = []byte{} // nil has a meaning
	}
	for _, f := range n.hearers[topic] {
		f(data)
	}
}

// missed tells everybody who hears that something may have been missed.
func (n *Node) missed() {
	for _, all := range n.hearers {
		for _, f := range all {
			f(nil)
		}
	}
	for _, o := range n.hub.overhear {
		o.f("", nil)
	}
}
