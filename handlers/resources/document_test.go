package resources_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is the replicas' OpenAPI document, which is the same for all: fetched once.
var document struct {
	mu      sync.Mutex
	paths   map[string]map[string]json.RawMessage
	schemas *jsonschema.Compiler
}

func (r *replica) readDocument(t testing.TB) {
	t.Helper()
	text := r.do(t, "", http.MethodGet, "/api/openapi.json", "").body
	var d struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openapi.json", must(jsonschema.UnmarshalJSON(strings.NewReader(text)))); err != nil {
		t.Fatal(err)
	}
	document.paths, document.schemas = d.Paths, c
}

// conforms compares an answer in JSON with what the replica's OpenAPI document says of its route and status.
func (r *replica) conforms(t testing.TB, method, path string, a answer) {
	t.Helper()
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	if kind != "application/json" && kind != "application/problem+json" || a.Header.Get("Content-Encoding") != "" {
		return
	}
	document.mu.Lock()
	defer document.mu.Unlock()
	if document.schemas == nil {
		r.readDocument(t)
	}
	path, _, _ = strings.Cut(path, "?")
	for route, methods := range document.paths {
		if route != path && document.paths[path] != nil || !matches(route, path) || methods[strings.ToLower(method)] == nil {
			continue
		}
		escaped := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
		at := fmt.Sprintf("openapi.json#/paths/%s/%s/responses/%d/content/%s/schema", escaped.Replace(route), strings.ToLower(method), a.StatusCode, escaped.Replace(kind))
		schema, err := document.schemas.Compile(at)
		if err != nil {
			t.Errorf("the document has no %s", at)
			return
		}
		body, err := jsonschema.UnmarshalJSON(strings.NewReader(a.body))
		if err == nil {
			err = schema.Validate(body)
		}
		if err != nil {
			t.Errorf("%s is not as %s says: %v", a.body, at, err)
		}
		return
	}
}

// matches says whether a path is one of the route's, each {parameter} of which stands for what is between two slashes.
func matches(route, path string) bool {
	want, have := strings.Split(route, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}
