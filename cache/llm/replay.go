package llm

import (
	"bytes"
	"slices"
	"strconv"
)

// asObject returns the answer as a request without stream gets it.
func (r *recording) asObject() ([]byte, error) {
	if r.object != nil {
		return r.object, nil
	}
	return assemble(r.Endpoint, r.events)
}

// asEvents returns the answer as a stream, with its usage or not, and with what ends it.
func (r *recording) asEvents(wantUsage bool) ([]event, error) {
	events := r.events
	if r.object != nil {
		n, err := parseAnswer(r.object)
		if err != nil {
			return nil, err
		}
		events = split(r.Endpoint, n)
	}
	if !r.Endpoint.hasUsageOption() {
		return events, nil
	}
	out := make([]event, 0, len(events)+1)
	for _, e := range events {
		if e, ok := withUsage(e, wantUsage); ok {
			out = append(out, e)
		}
	}
	return append(out, event{data: doneMark}), nil
}

// withUsage returns a chunk as it is for a client that asked for the usage or did not. Asked for, each chunk
// has the field, which is null in all but one of its own.
func withUsage(e event, want bool) (event, bool) {
	if want || !bytes.Contains(e.data, []byte(`"usage"`)) {
		return e, true
	}
	if b := withoutNullUsage(e.data); b != nil {
		return event{name: e.name, data: b}, true
	}
	n, err := parseJSON(e.data)
	if err != nil || n.kind != '{' {
		return e, true
	}
	switch u := n.get("usage"); {
	case u.kind == 'n':
		return event{name: e.name, data: n.with("usage", nil)}, true
	case u.kind == '{' && len(n.get("choices").items) == 0:
		return e, false
	}
	return e, true
}

// nullUsage is what each chunk has, but the last, of a stream that brings its usage.
var nullUsage = []byte(`"usage":null`)

// withoutNullUsage leaves a chunk's null usage out, in one pass: this is done for each token. It returns nil where that
// is not all there is to it, and the text has to be parsed.
func withoutNullUsage(text []byte) []byte {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			if depth == 1 && bytes.HasPrefix(text[i:], nullUsage) {
				end := i + len(nullUsage)
				switch {
				case end == len(text):
				case text[i-1] == ',' && (text[end] == ',' || text[end] == '}'):
					return slices.Concat(text[:i-1], text[end:])
				case text[i-1] == '{' && text[end] == ',':
					return slices.Concat(text[:i], text[end+1:])
				}
				return nil
			}
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		}
	}
	return nil
}

// split makes a stream of an object, without what ends it.
func split(e endpoint, n node) []event {
	switch e {
	case chat:
		return splitChat(n)
	case completions:
		return splitCompletion(n)
	case responses:
		return splitResponse(n)
	}
	return []event{{data: n.raw}}
}

// chunk returns the object without what changes from chunk to chunk.
func chunk(n node, object string, choices []byte) []byte {
	b := []byte{'{'}
	for _, m := range n.members {
		switch m.name {
		case "choices", "usage":
			continue
		case "object":
			b = append(append(append(b, m.key...), ':'), quote(object)...)
		default:
			b = append(append(append(b, m.key...), ':'), m.value.raw...)
		}
		b = append(b, ',')
	}
	b = append(append(append(b, `"choices":[`...), choices...), ']')
	if len(choices) == 0 {
		return append(append(append(b, `,"usage":`...), n.get("usage").raw...), '}')
	}
	if n.get("usage").kind == '{' {
		b = append(b, `,"usage":null`...)
	}
	return append(b, '}')
}

func splitChat(n node) (events []event) {
	const object = "chat.completion.chunk"
	for i, c := range n.get("choices").items {
		index := c.get("index").raw
		if index == nil {
			index = strconv.AppendInt(nil, int64(i), 10)
		}
		emit := func(delta, rest []byte) {
			b := append([]byte(`{"index":`), index...)
			b = append(append(append(b, `,"delta":{`...), delta...), '}')
			events = append(events, event{data: chunk(n, object, append(append(b, rest...), '}'))})
		}
		logprobs := append([]byte(`,"logprobs":`), c.get("logprobs").raw...)
		if !c.get("logprobs").has() {
			logprobs = []byte(`,"logprobs":null`)
		}
		const open = `,"finish_reason":null`
		m := c.get("message")
		emit(append([]byte(`"role":`), orString(m.get("role"), "assistant")...), []byte(open))
		for _, field := range m.members {
			switch {
			case field.name == "role":
			case field.name == "tool_calls" && field.value.kind == '[':
				for i, call := range field.value.items {
					delta := append([]byte(`"tool_calls":[`), call.with("index", strconv.AppendInt(nil, int64(i), 10))...)
					emit(append(delta, ']'), []byte(open))
				}
			case field.name == "content":
				emit(append([]byte(`"content":`), field.value.raw...), append(logprobs, open...))
			default:
				emit(append(append(bytes.Clone(field.key), ':'), field.value.raw...), []byte(open))
			}
		}
		rest := []byte{}
		for _, field := range c.members {
			switch field.name {
			case "index", "message", "logprobs":
			default:
				rest = append(append(append(append(rest, ','), field.key...), ':'), field.value.raw...)
			}
		}
		emit(nil, rest)
	}
	return withUsageChunk(events, n, object)
}

func withUsageChunk(events []event, n node, object string) []event {
	if n.get("usage").kind == '{' {
		events = append(events, event{data: chunk(n, object, nil)})
	}
	return events
}

func orString(n node, s string) []byte {
	if n.kind == '"' {
		return n.raw
	}
	return quote(s)
}

func splitCompletion(n node) (events []event) {
	const object = "text_completion"
	for _, c := range n.get("choices").items {
		events = append(events, event{data: chunk(n, object, c.raw)})
	}
	return withUsageChunk(events, n, object)
}
