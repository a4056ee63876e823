package realtime

import (
	"sync"

	"github.com/centrifugal/protocol"
	"github.com/centrifugal/protocol/cfjson"
)

// deltaFossil is the one kind of delta that the protocol knows.
const deltaFossil = "fossil"

// A view is how a subscription differs from the plain ones, which have none: it gets deltas, or only what
// passes a filter of tags. Never both, as in the protocol: what is filtered out would be missing from the
// chain of deltas. Guarded by its shard's mu, once the subscription is live.
type view struct {
	filter *filter  // nil with deltas
	base   *Message // deltas: what the client got last, and has; nil before the first
}

// newView returns what the client asked for and the channel allows: nil for a plain subscription.
func newView(req *protocol.SubscribeRequest, o ChannelOptions) (*view, error) {
	if req.Delta != "" && req.Delta != deltaFossil {
		return nil, ErrBadRequest.With("unknown kind of delta")
	}
	switch {
	case req.Tf != nil && !o.AllowTagsFilter:
		return nil, ErrNotAvailable.With("filters of tags are not allowed here")
	case req.Tf != nil:
		f, err := newFilter(req.Tf)
		if err != nil {
			return nil, err
		}
		return &view{filter: f}, nil
	case req.Delta == deltaFossil && o.Delta:
		return &view{}, nil
	}
	return nil, nil
}

func (v *view) isDelta() bool { return v != nil && v.filter == nil }

// publications returns what of messages the view shows, in the protocol's form.
func (v *view) publications(f format, messages []*Message) []*protocol.Publication {
	r := make([]*protocol.Publication, 0, len(messages))
	var base *Message
	if v.isDelta() {
		base = v.base
	}
	for _, m := range messages {
		switch {
		case v == nil:
			r = append(r, m.publication())
		case v.filter != nil:
			if v.filter.match(m.Meta.Tags) {
				r = append(r, m.publication())
			}
		default:
			r = append(r, m.patch(base, f))
			base = m
		}
	}
	return r
}

// patch is the protocol's form of m for a client that has base, or nothing: on JSON connections the data, or
// the delta, is a JSON string.
func (m *Message) patch(base *Message, f format) *protocol.Publication {
	p := m.publication()
	asJSON := f.protocol() == protocol.TypeJSON
	if base != nil {
		if d := delta(base.Data, m.Data, asJSON); d != nil {
			p.Data, p.Delta = d, true
		}
	}
	if asJSON {
		p.Data = cfjson.AppendString(nil, string(p.Data))
	}
	return p
}

// viewed holds what a burst looks like in views, each encoded once for all subscribers who see the same.
type viewed struct {
	mu     sync.Mutex
	tip    *Message // the newest message alone, so that keeping it keeps nothing else
	frames map[viewKey][]byte
}

type viewKey struct {
	format format
	from   int    // index of the first message
	base   uint64 // with deltas: the number of what the client has, 0 for nothing
	filter string
}

// frame is what a burst looks like to a subscription that has everything up to offset; nil where that is nothing.
func (v *view) frame(b *burst, f format, offset uint64) []byte {
	from := 0
	for b.last != 0 && from < len(b.messages) && b.messages[from].Offset <= offset {
		from++
	}
	if from == len(b.messages) {
		return nil
	}
	key := viewKey{format: f, from: from}
	if v.filter != nil {
		key.filter = v.filter.key
	} else if v.base != nil {
		key.base = v.base.Offset
	}
	b.viewed.mu.Lock()
	defer b.viewed.mu.Unlock()
	encoded, known := b.viewed.frames[key]
	if !known {
		encoded = v.encode(b, f, from)
		if b.viewed.frames == nil {
			b.viewed.frames = map[viewKey][]byte{}
		}
		b.viewed.frames[key] = encoded
	}
	if v.isDelta() {
		if b.viewed.tip == nil {
			newest := b.messages[len(b.messages)-1]
			b.viewed.tip = &Message{Offset: newest.Offset, Data: newest.Data}
		}
		v.base = b.viewed.tip
	}
	return encoded
}

func (v *view) encode(b *burst, f format, from int) []byte {
	shown := v.publications(f, b.messages[from:])
	if len(shown) == 0 {
		return nil
	}
	replies := make([]*protocol.Reply, len(shown))
	for i, p := range shown {
		replies[i] = push(&protocol.Push{Channel: b.channel, Pub: p})
	}
	return f.encode(replies...)
}

// recovered is what the client gets of what it missed, with the reply to its subscribe. It leaves the view
// ready for what comes next.
func (v *view) recovered(f format, missed []*Message) []*protocol.Publication {
	r := v.publications(f, missed)
	if v.isDelta() && len(missed) > 0 {
		newest := missed[len(missed)-1]
		v.base = &Message{Offset: newest.Offset, Data: newest.Data}
	}
	return r
}
