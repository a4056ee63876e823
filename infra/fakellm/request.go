package fakellm

import (
	"encoding/json"
	"strings"
)

// request is what all endpoints' requests have, as far as it changes an answer.
type request struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	N              int               `json:"n"`
	Messages       []json.RawMessage `json:"messages"` // chat
	Input          json.RawMessage   `json:"input"`    // responses, embeddings
	Prompt         json.RawMessage   `json:"prompt"`   // completions
	Tools          []tool            `json:"tools"`
	ToolChoice     json.RawMessage   `json:"tool_choice"`
	ResponseFormat format            `json:"response_format"`
	Text           struct {
		Format format `json:"format"`
	} `json:"text"`
	EncodingFormat string `json:"encoding_format"`
	Dimensions     int    `json:"dimensions"`
}

type format struct {
	Type string `json:"type"`
}

// tool is a function as chat (inside) and responses (outside) describe it.
type tool struct {
	Name       string `json:"name"`
	Parameters schema `json:"parameters"`
	Function   struct {
		Name       string `json:"name"`
		Parameters schema `json:"parameters"`
	} `json:"function"`
}

type schema struct {
	Properties map[string]struct {
		Type string `json:"type"`
	} `json:"properties"`
}

// prompt is the text that was asked, whatever the endpoint.
func (q *request) prompt() string {
	if len(q.Messages) > 0 {
		var m struct {
			Content json.RawMessage `json:"content"`
		}
		_ = json.Unmarshal(q.Messages[len(q.Messages)-1], &m) // what is no message has no text
		return text(m.Content)
	}
	if len(q.Input) > 0 {
		return text(q.Input)
	}
	return text(q.Prompt)
}

// text is a string as it is, and anything else as its JSON.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// wantsJSON tells whether the answer is to be JSON.
func (q *request) wantsJSON() bool {
	return strings.HasPrefix(q.ResponseFormat.Type, "json") || strings.HasPrefix(q.Text.Format.Type, "json")
}

// calls returns the function that is to be called with its arguments, if the request offers one and does not
// bring its result already.
func (q *request) calls(nonce string) (name, arguments string, ok bool) {
	if len(q.Tools) == 0 || text(q.ToolChoice) == "none" || q.hasResult() {
		return "", "", false
	}
	t := q.Tools[0]
	parameters := t.Parameters
	if name = t.Name; name == "" {
		name, parameters = t.Function.Name, t.Function.Parameters
	}
	values := object{}
	for p, kind := range parameters.Properties {
		switch kind.Type {
		case "number", "integer":
			values[p] = 7
		case "boolean":
			values[p] = true
		default:
			values[p] = "a " + p + " " + nonce
		}
	}
	b, err := json.Marshal(values)
	return name, string(b), err == nil
}

// hasResult tells whether the last message is a tool's.
func (q *request) hasResult() bool {
	last := func(items []json.RawMessage) bool {
		var m struct{ Role, Type string }
		if len(items) > 0 {
			_ = json.Unmarshal(items[len(items)-1], &m) // what is no message is no result
		}
		return m.Role == "tool" || m.Type == "function_call_output"
	}
	var items []json.RawMessage
	_ = json.Unmarshal(q.Input, &items) // a string has no items
	return last(q.Messages) || last(items)
}

// promptTokens counts words.
func (q *request) promptTokens() int { return max(len(strings.Fields(q.prompt())), 1) }
