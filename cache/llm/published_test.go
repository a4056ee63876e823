package llm

import (
	"encoding/json"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// keyed are the published fields that can change an answer. At work, whatever is not in unkeyed is in the key; the list is
// there so that a new field of OpenAI's is thought about.
var keyed = strings.Fields(`access_programs audio background best_of context_management conversation dimensions echo encoding_format
	frequency_penalty function_call functions include input instructions logit_bias logprobs max_completion_tokens max_output_tokens
	max_tokens max_tool_calls messages modalities model moderation n parallel_tool_calls prediction presence_penalty
	previous_response_id prompt reasoning reasoning_effort response_format seed stop store suffix temperature text tool_choice tools
	top_logprobs top_p truncation verbosity web_search_options`)

// published are the requests of OpenAI's own SDK: a release of it with another field fails the test.
var published = map[endpoint]struct{ file, name string }{
	chat:        {"chatcompletion.go", "ChatCompletionNewParams"},
	responses:   {"responses/response.go", "ResponseNewParams"},
	embeddings:  {"embedding.go", "EmbeddingNewParams"},
	completions: {"completion.go", "CompletionNewParams"},
}

// sdk is the folder with the source of OpenAI's SDK, which is read only: to compile it takes most of a minute.
func sdk(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", "github.com/openai/openai-go/v3")
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil || module.Dir == "" {
		t.Fatalf("fetch OpenAI's SDK: %v %s", err, module.Error)
	}
	return module.Dir
}

// fieldsOf are the names that a struct in a file has in JSON.
func fieldsOf(t *testing.T, file, name string) (names []string) {
	t.Helper()
	f, err := goparser.ParseFile(token.NewFileSet(), file, nil, goparser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != name {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			if field.Tag == nil {
				continue
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			if name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ","); name != "" && name != "-" {
				names = append(names, name)
			}
		}
		return false
	})
	return names
}

func TestPublishedFieldsAreKeyedOrNot(t *testing.T) {
	isKeyed := map[string]bool{}
	for _, f := range keyed {
		isKeyed[f] = true
	}
	seen := map[string]bool{"stream": true} // which the SDK adds itself
	source := sdk(t)
	for e, params := range published {
		fields := fieldsOf(t, filepath.Join(source, params.file), params.name)
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
