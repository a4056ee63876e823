package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// parsed splits the body of a stream into events.
func parsed(body []byte) (events []event) {
	for block := range bytes.SplitSeq(body, []byte("\n\n")) {
		var e event
		for line := range bytes.Lines(block) {
			field, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "id":
				e.id = string(value)
			case "event":
				e.name = string(value)
			case "data":
				e.data += string(value)
			}
		}
		if e.data != "" {
			events = append(events, e)
		}
	}
	return events
}

// folded puts the chunks of a chat together, as a client does: what is said once for all, and each choice's
// role, text, calls and reason.
func folded(t testing.TB, events []event) object {
	t.Helper()
	out := object{}
	choices := map[string]object{}
	for _, e := range events {
		if e.data == "[DONE]" {
			continue
		}
		chunk := decoded(t, []byte(e.data))
		for k, v := range chunk {
			switch k {
			case "choices":
				for _, one := range v.([]any) {
					foldChoice(choices, one.(object))
				}
			case "object":
			case "usage":
				if v != nil {
					out[k] = v
				}
			default:
				if old, ok := out[k]; ok && old != v {
					t.Errorf("%s changes in mid-stream from %v to %v", k, old, v)
				}
				out[k] = v
			}
		}
	}
	out["choices"] = choices
	return out
}

func foldChoice(choices map[string]object, c object) {
	index := fmt.Sprint(c["index"])
	sum := choices[index]
	if sum == nil {
		sum = object{"content": "", "calls": map[string]object{}}
		choices[index] = sum
	}
	if reason := c["finish_reason"]; reason != nil {
		sum["finish_reason"] = reason
	}
	delta, _ := c["delta"].(object)
	foldMessage(sum, delta)
}

// foldMessage adds a delta, or a whole message, to a choice.
func foldMessage(sum, m object) {
	if role, ok := m["role"]; ok {
		sum["role"] = role
	}
	if text, ok := m["content"].(string); ok {
		sum["content"] = sum["content"].(string) + text
	}
	calls, _ := m["tool_calls"].([]any)
	for i, one := range calls {
		call := one.(object)
		index := fmt.Sprint(i)
		if n, ok := call["index"]; ok {
			index = fmt.Sprint(n)
		}
		known := sum["calls"].(map[string]object)
		if known[index] == nil {
			known[index] = object{"arguments": ""}
		}
		if id, ok := call["id"]; ok {
			known[index]["id"] = id
		}
		function, _ := call["function"].(object)
		if name, ok := function["name"]; ok {
			known[index]["name"] = name
		}
		if arguments, ok := function["arguments"].(string); ok {
			known[index]["arguments"] = known[index]["arguments"].(string) + arguments
		}
	}
}

// unfolded gives a chat that was not streamed the form that folded has.
func unfolded(whole object) object {
	out := object{}
	choices := map[string]object{}
	for k, v := range whole {
		switch k {
		case "object":
		case "choices":
			for _, one := range v.([]any) {
				c := one.(object)
				sum := object{"content": "", "calls": map[string]object{}, "finish_reason": c["finish_reason"]}
				foldMessage(sum, c["message"].(object))
				choices[fmt.Sprint(c["index"])] = sum
			}
		default:
			out[k] = v
		}
	}
	out["choices"] = choices
	return out
}

// The two forms are folded alike: a check of the check, on the model's own answers.
func TestLLMFold(t *testing.T) {
	whole := decoded(t, []byte(`{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"a b"},"finish_reason":"stop"}],"usage":{"total_tokens":12345678901234567890}}`))
	stream := parsed([]byte("data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":null}]}\n\n" +
		"data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" b\"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"id\":\"x\",\"choices\":[],\"usage\":{\"total_tokens\":12345678901234567890}}\n\ndata: [DONE]\n\n"))
	same(t, "folded", unfolded(whole), folded(t, stream))
	if json.Valid([]byte(stream[0].data)) != true || len(stream) != 4 {
		t.Errorf("parsed: %+v", stream)
	}
}
