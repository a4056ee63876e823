package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// Bounds of what one upstream may send for one answer.
const (
	maxEventBytes  = 8 << 20
	maxAnswerBytes = 16 << 20 // all events; a larger object is neither stored nor shared
	maxObjectBytes = 64 << 20 // a list of many embeddings
)

var errEventTooLarge = errors.New("the upstream sent an event that is too large")

// An event is one server-sent event of an answer.
type event struct {
	name string // "" if it has none
	data []byte // usually JSON, on one line
}

// doneMark ends the streams of all endpoints but responses.
var doneMark = []byte("[DONE]")

// append adds the event as it travels. id is not added if it is empty.
func (e event) append(b []byte, id string) []byte {
	if e.name != "" {
		b = append(append(append(b, "event: "...), e.name...), '\n')
	}
	if id != "" {
		b = append(append(append(b, "id: "...), id...), '\n')
	}
	for data := e.data; ; {
		line, rest, more := bytes.Cut(data, []byte("\n"))
		b = append(append(append(b, "data: "...), line...), '\n')
		if !more {
			return append(b, '\n')
		}
		data = rest
	}
}

// sseParser makes events of whatever pieces a stream arrives in, as the OpenAI SDKs do: lines may end with CR, LF
// or both, unknown fields and comments are skipped, and what is not UTF-8 is replaced.
type sseParser struct {
	line    []byte // the beginning of the line that has not ended
	begun   bool   // past a byte order mark
	afterCR bool   // an LF that comes now belongs to the line before
	name    string
	data    []byte
	hasData bool
	mended  bool // something was not UTF-8
}

// feed takes the next piece and hands on each event that it completes. The event is emit's to keep.
func (p *sseParser) feed(piece []byte, emit func(event)) error {
	for len(piece) > 0 {
		if p.afterCR && piece[0] == '\n' {
			piece = piece[1:]
			p.afterCR = false
			continue
		}
		p.afterCR = false
		end := bytes.IndexAny(piece, "\r\n")
		if end < 0 {
			end = len(piece)
		}
		if len(p.line)+len(p.data)+end > maxEventBytes {
			return errEventTooLarge
		}
		p.line = append(p.line, piece[:end]...)
		if end == len(piece) {
			return nil
		}
		p.afterCR = piece[end] == '\r'
		piece = piece[end+1:]
		p.endLine(emit)
	}
	return nil
}

func (p *sseParser) endLine(emit func(event)) {
	line := p.line
	if !p.begun {
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		p.begun = true
	}
	p.line = p.line[:0]
	if len(line) == 0 {
		p.dispatch(emit)
		return
	}
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "data":
		if p.hasData {
			p.data = append(p.data, '\n')
		}
		p.data = append(p.data, value...)
		p.hasData = true
	case "event":
		p.name = string(p.mend(bytes.Clone(value)))
	}
}

func (p *sseParser) mend(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	p.mended = true
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}

func (p *sseParser) dispatch(emit func(event)) {
	if p.hasData {
		emit(event{name: p.name, data: p.mend(p.data)})
		p.data = nil
	}
	p.name, p.hasData = "", false
}

// end deals with an event that lacks its blank line at the end of the stream: it counts if it is whole. What is
// cut off is dropped, and end returns false.
func (p *sseParser) end(emit func(event)) bool {
	if len(p.line) > 0 {
		p.endLine(emit)
	}
	if !p.hasData {
		return true
	}
	if !bytes.Equal(p.data, doneMark) && !json.Valid(p.data) {
		return false
	}
	p.dispatch(emit)
	return true
}
