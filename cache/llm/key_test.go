package llm

import (
	"reflect"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	oairesponses "github.com/openai/openai-go/v3/responses"
)

// keyed are the published fields that can change an answer. At work, whatever is not in unkeyed is in the key; the list is
// there so that a new field of OpenAI's is thought about.
var keyed = strings.Fields(`access_programs audio background best_of context_management conversation dimensions echo encoding_format
	frequency_penalty function_call functions include input instructions logit_bias logprobs max_completion_tokens max_output_tokens
	max_tokens max_tool_calls messages modalities model moderation n parallel_tool_calls prediction presence_penalty
	previous_response_id prompt reasoning reasoning_effort response_format seed stop store suffix temperature text tool_choice tools
	top_logprobs top_p truncation verbosity web_search_options`)

// published are the requests of OpenAI's own SDK: a release of it with another field fails the test.
var published = map[endpoint]any{chat: openai.ChatCompletionNewParams{}, responses: oairesponses.ResponseNewParams{},
	embeddings: openai.EmbeddingNewParams{}, completions: openai.CompletionNewParams{}}

// fieldsOf are the names that a struct has in JSON, its embedded ones' included.
func fieldsOf(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && f.Type.Kind() == reflect.Struct && name == "":
			names = append(names, fieldsOf(f.Type)...)
		case f.IsExported() && name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

func TestEachPublishedFieldIsKeyedOrNot(t *testing.T) {
	isKeyed := map[string]bool{}
	for _, f := range keyed {
		isKeyed[f] = true
	}
	seen := map[string]bool{"stream": true} // which the SDK adds itself
	for e, params := range published {
		fields := fieldsOf(reflect.TypeOf(params))
		if len(fields) < 5 {
			t.Fatalf("%s has only %q", e, fields)
		}
		without := keyOf("t", "r", e, parse(t, `{"x":1}`))
		for _, f := range append(fields, "stream") {
			seen[f] = true
			if isKeyed[f] == unkeyed[f] {
				t.Errorf("%s: %s must be in exactly one of keyed and unkeyed", e, f)
			}
			one := keyOf("t", "r", e, parse(t, `{"x":1,"`+f+`":"a"}`))
			two := keyOf("t", "r", e, parse(t, `{"x":1,"`+f+`":"b"}`))
			if same := one == without && one == two; same != unkeyed[f] {
				t.Errorf("%s: %s changes the key: %v", e, f, !same)
			}
		}
	}
	for f := range isKeyed {
		if !seen[f] {
			t.Errorf("%s is no field any more", f)
		}
	}
}

func TestKeyCoversAllThatCanChangeAnAnswer(t *testing.T) {
	base := `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}],"seed":9007199254740993,"tools":[{"type":"function","function":{"name":"f","parameters":{"b":null,"a":{}}}}]}`
	k := keyOf("tenant", "route", chat, parse(t, base))
	for name, same := range map[string]string{
		"order and space": `{ "seed":9007199254740993, "tools":[{"function":{"parameters":{"a":{},"b":null},"name":"f"},"type":"function"}], "messages":[{"content":[{"text":"Hi","type":"text"},{"image_url":{"url":"data:image\/png;base64,AA=="},"type":"image_url"}],"role":"user"}], "model":"m"}`,
		"escapes":         strings.Replace(base, "Hi", `\u0048i`, 1),
		"unkeyed":         strings.Replace(base, "{", `{"stream":true,"stream_options":{"include_usage":true},"user":"u","metadata":{"a":"b"},`, 1),
	} {
		if keyOf("tenant", "route", chat, parse(t, same)) != k {
			t.Errorf("%s: another key", name)
		}
	}
	others := map[string]string{
		"case": strings.Replace(base, "Hi", "hi", 1), "space": strings.Replace(base, "Hi", "Hi ", 1), "number": strings.Replace(base, "993", "992", 1),
		"null": strings.Replace(base, `"b":null,`, "", 1), "unknown field": strings.Replace(base, "{", `{"new":1,`, 1),
		"image": strings.Replace(base, "AA==", "AB==", 1), "tool": strings.Replace(base, `"name":"f"`, `"name":"g"`, 1),
		"order of parts": strings.Replace(base, `{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}`, `{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}},{"type":"text","text":"Hi"}`, 1),
		// Only the request's own field stream is not in the key.
		"nested unkeyed name": strings.Replace(base, `"a":{}`, `"a":{"user":1}`, 1),
	}
	seen := map[key]string{k: "base"}
	for name, text := range others {
		o := keyOf("tenant", "route", chat, parse(t, text))
		if was, twice := seen[o]; twice {
			t.Errorf("%s has the key of %s", name, was)
		}
		seen[o] = name
	}
	n := parse(t, base)
	for _, o := range []key{keyOf("other", "route", chat, n), keyOf("tenant", "other", chat, n), keyOf("tenant", "route", responses, n), keyOf("tenantr", "oute", chat, n)} {
		if was, twice := seen[o]; twice {
			t.Errorf("has the key of %s", was)
		}
		seen[o] = "another scope, route or endpoint"
	}
}

func FuzzKey(f *testing.F) {
	f.Add(`{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":0.10}`)
	f.Add(`{"a":"\ud800","b":[1e5,{}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseJSON([]byte(text))
		if err != nil || n.kind != '{' {
			return
		}
		k := keyOf("t", "r", chat, n)
		// An edit that changes nothing, and fields that are not in the key, leave it alone.
		again := parse(t, string(n.with("stream", []byte("true"))))
		if keyOf("t", "r", chat, again) != k {
			t.Fatalf("another key for %q", text)
		}
		if keyOf("t", "r", chat, parse(t, string(n.with("\x00new", []byte("1"))))) == k {
			t.Fatalf("the same key for %q and more", text)
		}
	})
}
