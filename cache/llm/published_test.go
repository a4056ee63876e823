//go:build !race

// OpenAI's SDK is large, and nothing here needs to be compiled once more with the race detector.

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

func TestPublishedFieldsAreKeyedOrNot(t *testing.T) {
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
