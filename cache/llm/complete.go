package llm

import (
	"bytes"
	"encoding/json"
)

// usage is what an answer took.
type usage struct{ prompt, completion int64 }

// usageOf reads an answer's usage: of an object or of an event.
func usageOf(n node) usage {
	if r := n.get("response"); r.kind == '{' {
		n = r
	}
	u := n.get("usage")
	return usage{prompt: u.get("prompt_tokens").integer() + u.get("input_tokens").integer(),
		completion: u.get("completion_tokens").integer() + u.get("output_tokens").integer()}
}

// isComplete says whether an answer is whole, and so may be given to others: nothing was cut off by a limit or
// a filter, nothing failed, and what is meant for programs can be read by them. want is how many choices were
// asked for.
func isComplete(e endpoint, answer node, want int64) bool {
	if answer.kind != '{' || answer.get("error").has() {
		return false
	}
	switch e {
	case responses:
		if answer.get("status").text() != "completed" {
			return false
		}
		for _, item := range answer.get("output").items {
			if item.get("type").text() == "function_call" && !json.Valid([]byte(item.get("arguments").text())) {
				return false
			}
		}
		return true
	case embeddings:
		return len(answer.get("data").items) > 0
	}
	choices := answer.get("choices").items
	if len(choices) == 0 || int64(len(choices)) < want {
		return false
	}
	for _, c := range choices {
		switch c.get("finish_reason").text() {
		case "", "length", "content_filter":
			return false
		}
		m := c.get("message")
		if call := m.get("function_call"); call.has() && !json.Valid([]byte(call.get("arguments").text())) {
			return false
		}
		for _, call := range m.get("tool_calls").items {
			if f := call.get("function"); f.has() && !json.Valid([]byte(f.get("arguments").text())) {
				return false
			}
		}
	}
	return true
}

// ends says whether an event is the last one of a stream that went well.
func ends(e endpoint, ev event) bool {
	if e != responses {
		return string(ev.data) == string(doneMark)
	}
	switch typeOf(ev) {
	case "response.completed", "response.incomplete":
		return true
	}
	return false
}

// typeOf is the type of a responses stream's event.
func typeOf(ev event) string {
	if ev.name != "" {
		return ev.name
	}
	var t struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(ev.data, &t) != nil {
		return ""
	}
	return t.Type
}

// hasUsage is a quick look for what only a few events have.
func hasUsage(ev event) bool { return bytes.Contains(ev.data, []byte(`"usage"`)) }
