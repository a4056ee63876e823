package llm

import (
	"bytes"
	"slices"
)

// A retake puts an answer onto a tape on which the beginning of one may be already: of a leader that died. As long
// as the new one tells the same, event by event, nobody hears anything twice; from there on it goes on. If it tells something
// else, the tape begins anew: whoever has not been told of the old one gets the new one, and whoever has must be told
// that it is over.
type retake struct {
	tape     *tape
	endpoint endpoint
	take     int // of an answer that begins anew
	prefix   []event
	head     flightHead
	mine     []event
	joined   bool   // events go onto the tape
	id       []byte // of the old answer's chunks, in those that continue it
	created  []byte
}

// newRetake makes one for the leader of an attempt, which begins anew once at most; 0 for nobody's.
func newRetake(f *flight, attempt int) *retake {
	v := f.now(0)
	r := &retake{tape: f.tape, endpoint: f.req.endpoint, take: max(v.take+1, attempt-1), prefix: v.events, joined: v.head == nil}
	if len(v.events) > 0 && r.endpoint.hasUsageOption() {
		if n, err := parseJSON(v.events[0].data); err == nil {
			r.id, r.created = n.get("id").raw, n.get("created").raw
		}
	}
	return r
}

// begin begins a stream.
func (r *retake) begin(h flightHead) {
	r.head = h
	switch {
	case r.joined:
		r.tape.begin(h)
	case len(r.prefix) == 0:
		r.joined = true
	}
}

func (r *retake) add(events ...event) bool {
	for i, e := range events {
		if r.joined {
			return r.tape.add(r.continued(events[i:])...)
		}
		r.mine = append(r.mine, e)
		at := len(r.mine) - 1
		if !sameEvent(e, r.prefix[at]) {
			r.diverge()
			continue
		}
		r.joined = len(r.mine) == len(r.prefix)
	}
	return true
}

// diverge begins the tape anew, with what came until now.
func (r *retake) diverge() {
	r.tape.again(r.take)
	r.tape.begin(r.head)
	r.tape.add(r.mine...)
	r.joined, r.id, r.created = true, nil, nil
}

// continued gives chunks the id of those that they continue.
func (r *retake) continued(events []event) []event {
	if r.id == nil {
		return events
	}
	out := slices.Clone(events)
	for i, e := range out {
		for name, value := range map[string][]byte{"id": r.id, "created": r.created} {
			if n, err := parseJSON(out[i].data); err == nil && n.get(name).kind != 0 && value != nil {
				out[i] = event{name: e.name, data: n.with(name, value)}
			}
		}
	}
	return out
}

// whole is an answer that came in one piece.
func (r *retake) whole(h flightHead, b []byte, e flightEnd) {
	if !r.joined {
		r.tape.again(r.take)
	}
	r.joined = true
	r.tape.whole(h, b, e)
}

func (r *retake) finish(e flightEnd) {
	if !r.joined && e.Failure == nil {
		r.diverge() // it is shorter than the old one
	}
	r.tape.finish(e)
}

// volatile are names of what differs between two tellings of the same.
var volatile = map[string]bool{"id": true, "item_id": true, "created": true, "created_at": true, "completed_at": true,
	"system_fingerprint": true, "service_tier": true, "obfuscation": true}

func sameEvent(a, b event) bool {
	if a.name != b.name {
		return false
	}
	if bytes.Equal(a.data, b.data) {
		return true
	}
	x, err1 := parseJSON(a.data)
	y, err2 := parseJSON(b.data)
	return err1 == nil && err2 == nil && bytes.Equal(stable(x), stable(y))
}

// stable is a value's canonical form without what is volatile, at any depth.
func stable(n node) []byte { return withoutVolatile(n).appendCanonical(nil, nil) }

func withoutVolatile(n node) node {
	switch n.kind {
	case '{':
		members := make([]member, 0, len(n.members))
		for _, m := range n.members {
			if !volatile[m.name] {
				members = append(members, member{name: m.name, key: m.key, value: withoutVolatile(m.value)})
			}
		}
		n.members = members
	case '[':
		items := make([]node, len(n.items))
		for i := range n.items {
			items[i] = withoutVolatile(n.items[i])
		}
		n.items = items
	}
	return n
}
