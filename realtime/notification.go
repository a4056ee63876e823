package realtime

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxPayload is the most that one NOTIFY may carry: PostgreSQL allows under 8,000 bytes, of which the
// header takes at most maxHeader.
const (
	maxPayload = 7999
	maxHeader  = 64
	// maxEphemeral is the most that a message of an ephemeral channel may have, with its channel and meta: it
	// must fit into one notification.
	maxEphemeral = maxPayload - maxHeader - 3
)

// A notification tells of consecutive messages that one append committed. Its text is
//
//	m PREV FIRST COUNT \n CHANNEL \n DATA \n META \n …
//
// PREV is the number before FIRST in the log. Without inline messages (one that is too large to ride in a
// notification) the reader fetches them from the log.
type notification struct {
	prev, first uint64
	count       uint64
	messages    []Message // count of them, or none
}

func (n *notification) last() uint64 { return n.first + n.count - 1 }

// Kinds of notification, by how they begin.
const (
	kindMessages  = "m "  // of the log
	kindEphemeral = "e\n" // messages that are not stored: a number \n CHANNEL \n DATA \n META \n …
	kindControl   = "c\n" // JSON: what one replica tells all
	kindNews      = "j\n" // joins and leaves: a number \n JSON
	kindProbe     = "p "  // a nonce, to see whether it arrives
)

// pack lays messages into as few notification bodies as they need, in order. A message that does not fit
// into one travels by reference: an empty body.
func pack(messages []Message, metas []string) (bodies []string, counts []int32) {
	var b strings.Builder
	var n int32
	flush := func() {
		if n > 0 {
			bodies, counts = append(bodies, b.String()), append(counts, n)
			b.Reset()
			n = 0
		}
	}
	for i := range messages {
		m := &messages[i]
		size := len(m.Channel) + len(m.Data) + len(metas[i]) + 3
		if b.Len()+size > maxPayload-maxHeader {
			flush()
		}
		if size > maxPayload-maxHeader {
			bodies, counts = append(bodies, ""), append(counts, 1)
			continue
		}
		if b.Len() == 0 {
			b.Grow(min(maxPayload, size*(len(messages)-i)))
		}
		b.WriteString(m.Channel)
		b.WriteByte('\n')
		b.Write(m.Data)
		b.WriteByte('\n')
		b.WriteString(metas[i])
		b.WriteByte('\n')
		n++
	}
	flush()
	return bodies, counts
}

// ephemeralPayloads lays messages that are not stored into as few notifications as they need, in order. Each
// fits: Node.Check saw to that. A number makes each notification differ from every other, since Postgres
// delivers equal ones of a transaction once.
func ephemeralPayloads(messages []Message) []string {
	metas := make([]string, len(messages))
	for i := range messages {
		metas[i] = messages[i].Meta.encode()
	}
	bodies, _ := pack(messages, metas)
	for i := range bodies {
		bodies[i] = kindEphemeral + strconv.Itoa(i) + "\n" + bodies[i]
	}
	return bodies
}

var errNotification = errors.New("not a notification of the log")

// parseNotification reads what append sent. Anybody who may connect to the database may NOTIFY, so it
// trusts nothing; what it cannot read is fetched from the log by whoever gets the error.
func parseNotification(payload string) (*notification, error) {
	header, body, ok := strings.Cut(payload, "\n")
	f := strings.Split(header, " ")
	if !ok || len(f) != 4 || f[0] != "m" {
		return nil, errNotification
	}
	var v [3]uint64
	for i := range v {
		n, err := strconv.ParseInt(f[i+1], 10, 64)
		if err != nil || n < 0 {
			return nil, errNotification
		}
		v[i] = uint64(n)
	}
	n := &notification{prev: v[0], first: v[1], count: v[2]}
	if n.prev >= n.first || n.count == 0 || n.count > maxPayload {
		return nil, errNotification
	}
	if body == "" {
		return n, nil
	}
	m, err := parseMessages(body)
	if err != nil || uint64(len(m)) != n.count {
		return nil, errNotification
	}
	for i := range m {
		m[i].Offset = n.first + uint64(i)
	}
	n.messages = m
	return n, nil
}

// parseMessages reads what pack wrote into a body.
func parseMessages(body string) ([]Message, error) {
	lines := strings.Split(body, "\n")
	if len(lines)%3 != 1 || len(lines) == 1 || lines[len(lines)-1] != "" {
		return nil, errNotification
	}
	m := make([]Message, len(lines)/3)
	for i := range m {
		meta, err := decodeMeta(lines[3*i+2])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotification, err)
		}
		m[i] = Message{Channel: lines[3*i], Data: []byte(lines[3*i+1]), Meta: meta}
	}
	return m, nil
}
