package realtime

import (
	"bytes"
	"context"
	"fmt"
	"sync"
)

// followPage is how many messages a Follower reads from the log at once.
const followPage = 64

// Follower reads a channel inside the process: its past from the log, and then what comes, as it comes. It has no
// goroutine. Whoever calls Next and Close does so from one goroutine.
type Follower struct {
	node    *Node
	client  *client // the hub's view of it
	channel string
	at      uint64 // everything up to here was returned
	past    bool   // the log may hold more than the queue does
	ready   chan struct{}

	mu     sync.Mutex
	queue  [][]byte // guarded by mu, like all below
	size   int
	behind bool // something did not fit: the log has it
	lost   bool // the log went back
}

// OnJoin calls f with each channel of a namespace that a client of this replica subscribes to: whoever writes to it may
// have to hurry. f must not block. OnJoin must be called before Run.
func (n *Node) OnJoin(namespace string, f func(channel string)) { n.joined[namespace] = f }

func (n *Node) joinedBy(channel string) {
	namespace := namespaceOf(channel)
	if namespace == OperatorNamespace {
		n.watchedOn()
	}
	if f := n.joined[namespace]; f != nil {
		f(channel)
	}
}

// Follow returns a channel's messages after since, 0 for all that the log still holds. Nobody's permission is
// asked: it is for the server itself.
func (n *Node) Follow(channel string, since uint64) (*Follower, error) {
	if why := checkChannel(channel); why != "" {
		return nil, ErrBadRequest.With(why)
	}
	if n.cfg.Namespaces.of(channel).Ephemeral {
		return nil, ErrNotAvailable.With("the channel is ephemeral")
	}
	f := &Follower{node: n, channel: channel, at: since, past: true, ready: make(chan struct{}, 1)}
	f.client = newClient(n, f, events)
	s := f.client.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heads[n.place(channel)].Epoch == "" {
		return nil, ErrInternal.With("the log has not been reached yet")
	}
	// First it joins, then it reads: what is committed between the two comes twice, never not at all.
	s.subscribe(&subscription{client: f.client, channel: channel, from: since, live: true})
	return f, nil
}

// Close ends the subscription.
func (f *Follower) Close() error {
	f.client.shard.remove(f.client)
	return nil
}

// Next waits for messages and returns them in order, at least one. ErrUnrecoverable says that the log went back:
// what was returned may not exist any more.
func (f *Follower) Next(ctx context.Context) ([]Message, error) {
	for {
		if f.past {
			h, err := f.node.strandOf(f.channel).log.History(ctx, f.channel, HistoryFilter{Since: &Position{Offset: f.at}, Limit: followPage})
			if err != nil {
				return nil, fmt.Errorf("follow a channel: %w", err)
			}
			// A page also ends at its bound in bytes, which the log counts a little otherwise.
			f.past = len(h.Messages) == followPage || sizeOf(h.Messages) > maxHistoryBytes/2
			if len(h.Messages) > 0 {
				f.at = h.Messages[len(h.Messages)-1].Offset
				return h.Messages, nil
			}
		}
		frames, err := f.take()
		if err != nil {
			return nil, err
		}
		if m := f.parse(frames); len(m) > 0 {
			f.at = m[len(m)-1].Offset
			return m, nil
		}
		if f.past {
			continue
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.node.life.Done():
			return nil, errClosed
		}
	}
}

// take empties the queue. If it had run over, what follows it is in the log.
func (f *Follower) take() ([][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		return nil, ErrUnrecoverable
	}
	frames := f.queue
	f.queue, f.size = nil, 0
	if f.behind {
		f.behind, f.past = false, true
	}
	return frames, nil
}

// parse reads what encodeEvents wrote, without what was returned before.
func (f *Follower) parse(frames [][]byte) (messages []Message) {
	for _, b := range frames {
		for e := range bytes.SplitSeq(b, []byte("\n\n")) {
			id, data, ok := bytes.Cut(e, []byte("\ndata: "))
			id, isMessage := bytes.CutPrefix(id, []byte("id: "))
			p, valid := parseEventID(string(id))
			if ok && isMessage && valid && p.Offset > f.at {
				messages = append(messages, Message{Offset: p.Offset, Channel: f.channel, Data: data})
			}
		}
	}
	return messages
}

// send implements transport: it queues up to the limit, and what is more stays in the log.
func (f *Follower) send(b []byte, limit int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case events.endsWith(b) != nil:
		f.lost = true
	case f.behind || f.size > 0 && f.size+len(b) > limit:
		f.behind = true
	default:
		f.queue = append(f.queue, b)
		f.size += len(b)
	}
	select {
	case f.ready <- struct{}{}:
	default:
	}
	return nil
}

// disconnect implements transport. The hub does not know the client by itself, so nothing else ends it.
func (f *Follower) disconnect(*Disconnect) bool { return false }

var _ transport = (*Follower)(nil)

// Reserve sets a namespace apart for the server's own channels: its messages are stored, and clients never
// publish there. Options that are configured for it otherwise hold, unless they contradict that.
func (n *Namespaces) Reserve(name string) error {
	o, listed := n.byName[name]
	if !listed {
		o = defaultOptions
	}
	if o.Ephemeral || !o.Recovery || o.AllowPublishForClient || o.AllowPublishForSubscriber {
		return fmt.Errorf("namespaces: %q belongs to the server: it can be neither ephemeral nor without recovery nor published to by clients", name)
	}
	n.byName[name] = o
	return nil
}

// Seclude sets a namespace apart for what the server tells itself: its messages are stored, and no client subscribes
// to its channels or reads them, whoever would grant it.
func (n *Namespaces) Seclude(name string) error {
	if _, listed := n.byName[name]; listed {
		return fmt.Errorf("namespaces: %q belongs to the server", name)
	}
	n.byName[name], n.secluded[name] = ChannelOptions{Recovery: true}, true
	return nil
}
