package llm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A recording is a complete answer in the form in which the upstream gave it, stream or object. Every other form
// is rendered from it (replay.go).
type recording struct {
	recordingHead
	events []event // of a stream, without what ends it
	object []byte  // of an answer that was no stream
}

// recordingHead is what is known about an answer.
type recordingHead struct {
	ID         string   `json:"id"`
	Scope      string   `json:"scope"` // whose it is: checked on every read
	Base       string   `json:"base"`  // the same without what only decides which answers may be given
	Endpoint   endpoint `json:"endpoint"`
	Model      string   `json:"model"` // as it was asked for
	Upstream   string   `json:"upstream"`
	Prompt     int64    `json:"prompt"`     // tokens
	Completion int64    `json:"completion"` // tokens
	CostMicros int64    `json:"cost"`
	// How long the first one waited: what a hit saves.
	FirstToken time.Duration `json:"first"`
	Duration   time.Duration `json:"duration"`
	Usage      bool          `json:"usage"` // the stream has its usage
}

// recordingMagic begins every recording of this version.
const recordingMagic = "FWL1"

var errNotRecording = errors.New("not a recording of this version")

// encode returns r with every byte of its events or its object as it came.
func (r *recording) encode() ([]byte, error) {
	head, err := json.Marshal(r.recordingHead)
	if err != nil {
		return nil, fmt.Errorf("encode a recording: %w", err)
	}
	size := len(recordingMagic) + len(head) + len(r.object) + 32
	for _, e := range r.events {
		size += len(e.name) + len(e.data) + 8
	}
	b := append(make([]byte, 0, size), recordingMagic...)
	b = appendPart(b, head)
	b = appendPart(b, r.object)
	b = binary.AppendUvarint(b, uint64(len(r.events)))
	for _, e := range r.events {
		b = appendPart(b, []byte(e.name))
		b = appendPart(b, e.data)
	}
	return b, nil
}

func appendPart(b, part []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

// decodeRecording reads what encode wrote. The recording shares b.
func decodeRecording(b []byte) (*recording, error) {
	if len(b) < len(recordingMagic) || string(b[:len(recordingMagic)]) != recordingMagic {
		return nil, errNotRecording
	}
	d := parts{b: b[len(recordingMagic):]}
	r := &recording{}
	head := d.next()
	if object := d.next(); len(object) > 0 {
		r.object = object
	}
	count := d.number()
	if d.bad || count > uint64(len(d.b)) {
		return nil, errNotRecording
	}
	for range count {
		r.events = append(r.events, event{name: string(d.next()), data: d.next()})
	}
	if d.bad || len(d.b) > 0 || (r.object == nil) == (len(r.events) == 0) {
		return nil, errNotRecording
	}
	if err := json.Unmarshal(head, &r.recordingHead); err != nil {
		return nil, errNotRecording
	}
	return r, nil
}

// parts reads what appendPart wrote.
type parts struct {
	b   []byte
	bad bool
}

func (p *parts) number() uint64 {
	n, size := binary.Uvarint(p.b)
	if size <= 0 {
		p.bad = true
		return 0
	}
	p.b = p.b[size:]
	return n
}

func (p *parts) next() []byte {
	n := p.number()
	if p.bad || n > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	part := p.b[:n:n]
	p.b = p.b[n:]
	return part
}
