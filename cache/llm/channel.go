package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Namespace is that of the channels that answers travel on: "llm:" and the answer's id.
const Namespace = "llm"

// AliasNamespace is that of the channels that say which of our ids belongs to an upstream's. No client may have them: some
// upstreams' ids can be guessed, and ours opens the answer.
const AliasNamespace = "llm-by"

// Log is what answers travel through between replicas: the realtime log.
type Log interface {
	// Append stores messages, each a JSON value, and returns when they are committed.
	Append(ctx context.Context, channel string, messages ...[]byte) error
	// Read returns the first messages of a channel, so many at most.
	Read(ctx context.Context, channel string, most int) ([][]byte, error)
	// Follow reads a channel from its beginning and goes on as it grows.
	Follow(channel string) (Follower, error)
}

// Follower reads a channel. One goroutine uses it.
type Follower interface {
	Next(ctx context.Context) ([][]byte, error)
	Close() error
}

func channelOf(id string) string { return Namespace + ":" + id }

// aliasChannel is where the id that the upstream gave an answer leads to ours.
func aliasChannel(scope, id string) string { return AliasNamespace + ":" + hashed(scope, id) }

// A publication is a message of an answer's channel, as replicas and browsers read it.
type publication struct {
	Attempt int `json:"attempt"` // one more for each leader that died
	// Take is greater whenever the answer began anew, because a new leader's differs from what was told of the last
	// one's, and names that leader: a take of one that died before it could write it is no other's. A greater one
	// replaces all that came before.
	Take int         `json:"take"`
	Head *flightHead `json:"head,omitempty"` // the answer begins
	// Events are consecutive ones, the first with the number From. An event is the JSON of a chunk; or text, in
	// quotes, if it is not a JSON object; or a pair of its name and its text, if its name is not its type.
	From   *int              `json:"from,omitempty"`
	Events []json.RawMessage `json:"events,omitempty"`
	// Part is of an event or an answer that is too large for one message.
	Part *part      `json:"part,omitempty"`
	End  *flightEnd `json:"end,omitempty"`
	// Live says that from here on every event comes at once.
	Live bool `json:"live,omitempty"`
	// Held is of a new leader's first message: the old one may have told its own clients more events than those.
	Held *int `json:"held,omitempty"`
}

type part struct {
	At   int    `json:"at"` // of its first byte in the whole text
	Text string `json:"text"`
	Last bool   `json:"last,omitempty"`
	Name string `json:"name,omitempty"` // the event's
}

// codeNotShared ends the channel of an answer that is too large for it: whoever wants it asks for himself.
const codeNotShared = "not_shared"

// encode makes messages of all that a view shows, and says how many events that are.
func (p *pump) encode(v view, quiet bool) (messages [][]byte, taken int) {
	add := func(pub publication) {
		pub.Attempt, pub.Take, pub.Live = p.attempt, p.take, p.live
		if b, err := json.Marshal(pub); err == nil { // it has nothing that JSON cannot hold
			messages = append(messages, b)
		}
	}
	if v.head != nil && !p.headOut {
		add(publication{Head: v.head})
		p.headOut = true
	}
	begin := func() []byte {
		b := strconv.AppendInt([]byte(`{"attempt":`), int64(p.attempt), 10)
		b = strconv.AppendInt(append(b, `,"take":`...), int64(p.take), 10)
		if p.live {
			b = append(b, `,"live":true`...)
		}
		b = strconv.AppendInt(append(b, `,"from":`...), int64(p.next+taken), 10)
		return append(b, `,"events":[`...)
	}
	var b []byte
	flush := func() {
		if b != nil {
			messages, b = append(messages, append(b, "]}"...)), nil
		}
	}
	for _, e := range v.events {
		text := encodeEvent(v.head.Endpoint, e)
		if len(text) > p.limit/2 {
			flush()
			p.parts(e.name, e.data, p.next+taken, add)
			taken++
			continue
		}
		if b != nil && len(b)+len(text) > p.limit/2 {
			flush()
		}
		if b == nil {
			b = begin()
		} else {
			b = append(b, ',')
		}
		b = append(b, text...)
		taken++
	}
	flush()
	if v.end != nil && !quiet {
		if len(v.object) > maxAnswerBytes {
			add(publication{End: &flightEnd{Failure: &failure{Code: codeNotShared}}})
			return messages, taken
		}
		if v.object != nil {
			p.parts("", v.object, 0, add)
		}
		add(publication{End: v.end})
	}
	return messages, taken
}

// parts adds a text in pieces. JSON may write one byte as six.
func (p *pump) parts(name string, text []byte, from int, add func(publication)) {
	for at := 0; ; {
		n := min(len(text)-at, max(p.limit/8, 16))
		for n < len(text)-at && n > 0 && !utf8.RuneStart(text[at+n]) {
			n--
		}
		last := at+n == len(text)
		add(publication{From: &from, Part: &part{At: at, Text: string(text[at : at+n]), Last: last, Name: name}})
		if at += n; last {
			return
		}
	}
}

// encodeEvent is the inverse of decodeEvent.
func encodeEvent(e endpoint, ev event) []byte {
	isObject := len(ev.data) > 1 && ev.data[0] == '{' && json.Valid(ev.data)
	implied := ""
	if e == responses && isObject {
		implied = typeOf(event{data: ev.data})
	}
	switch {
	case isObject && ev.name == implied:
		return ev.data
	case ev.name != implied:
		b := append(appendText([]byte{'['}, ev.name), ',')
		return append(appendText(b, string(ev.data)), ']')
	}
	return appendText(nil, string(ev.data))
}

// appendText appends s as JSON that holds no line break.
func appendText(b []byte, s string) []byte { return appendQuoted(b, s) }

func decodeEvent(e endpoint, raw json.RawMessage) (event, error) {
	switch {
	case len(raw) > 0 && raw[0] == '{':
		ev := event{data: raw}
		if e == responses {
			ev.name = typeOf(ev)
		}
		return ev, nil
	case len(raw) > 0 && raw[0] == '[':
		var pair [2]string
		if err := json.Unmarshal(raw, &pair); err != nil {
			return event{}, fmt.Errorf("decode an event: %w", err)
		}
		return event{name: pair[0], data: []byte(pair[1])}, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return event{}, fmt.Errorf("decode an event: %w", err)
	}
	return event{data: []byte(text)}, nil
}

// A copier puts what a channel brings onto a tape of this replica.
type copier struct {
	tape    *tape
	attempt int // the latest
	turn    int // the latest take
	next    int
	part    []byte
}

var errHole = errors.New("the channel of an answer has a hole")

// take handles messages that came together. Of what one of them replaces no reader is told.
func (c *copier) take(messages ...[]byte) error {
	all := make([]publication, len(messages))
	attempt, turn := c.attempt, c.turn
	for i, m := range messages {
		if err := json.Unmarshal(m, &all[i]); err != nil {
			return fmt.Errorf("read an answer's channel: %w", err)
		}
		if all[i].Attempt >= attempt {
			attempt, turn = all[i].Attempt, max(turn, all[i].Take)
		}
	}
	for i := range all {
		if err := c.one(&all[i], turn); err != nil {
			return err
		}
	}
	return nil
}

// one handles one message, unless its take is below the latest that is known.
func (c *copier) one(p *publication, latest int) error {
	if p.Attempt > c.attempt {
		c.attempt, c.part = p.Attempt, nil
		if p.Held != nil {
			c.tape.hold(*p.Held)
		}
	}
	if p.Attempt < c.attempt || p.Take < latest {
		return nil // of a leader that was thought dead, and has been replaced
	}
	if p.Take > c.turn {
		c.turn, c.next, c.part = p.Take, 0, nil
		c.tape.again(p.Take)
	}
	v := c.tape.now(0)
	if p.Head != nil && v.head == nil {
		c.tape.begin(*p.Head)
		v.head = p.Head
	}
	if p.From != nil {
		if v.head == nil || *p.From > c.next {
			return errHole
		}
		if err := c.events(v.head, p); err != nil {
			return err
		}
	}
	if p.End != nil && p.End.Failure != nil && p.End.Failure.Code == codeNotShared {
		return errShareOff
	}
	if p.End != nil {
		c.tape.finish(*p.End)
	}
	return nil
}

// claim is what a new leader writes first.
func (c *copier) claim(attempt int) []byte {
	return fmt.Appendf(nil, `{"attempt":%d,"take":0,"held":%d}`, attempt, c.next)
}

func (c *copier) events(h *flightHead, p *publication) error {
	if p.Part != nil {
		return c.piece(h, p)
	}
	if done := c.next - *p.From; done < len(p.Events) {
		var events []event
		for _, raw := range p.Events[done:] {
			e, err := decodeEvent(h.Endpoint, raw)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		c.next += len(events)
		if !c.tape.add(events...) {
			return errTooLarge
		}
	}
	return nil
}

func (c *copier) piece(h *flightHead, p *publication) error {
	v := c.tape.now(0)
	switch {
	case *p.From < c.next || p.Part.At < len(c.part) || v.object != nil:
		return nil // it came twice
	case p.Part.At > len(c.part):
		return errHole
	case len(c.part)+len(p.Part.Text) > maxAnswerBytes:
		return errTooLarge
	}
	c.part = append(c.part, p.Part.Text...)
	if !p.Part.Last {
		return nil
	}
	whole := c.part
	c.part = nil
	if !h.Stream {
		c.tape.setObject(whole)
		return nil
	}
	c.next++
	c.tape.add(event{name: p.Part.Name, data: whole})
	return nil
}
