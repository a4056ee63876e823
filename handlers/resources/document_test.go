package resources_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// conforms compares an answer in JSON with what the replica's OpenAPI document says of its route and status.
func (r *replica) conforms(t testing.TB, method, path string, a answer) {
	t.Helper()
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	if kind != "application/json" && kind != "application/problem+json" || a.Header.Get("Content-Encoding") != "" {
		return
	}
	text := r.do(t, "", http.MethodGet, "/api/openapi.json", "").body
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	path, _, _ = strings.Cut(path, "?")
	for route, methods := range document.Paths {
		if route != path && document.Paths[path] != nil || !matches(route, path) || methods[strings.ToLower(method)] == nil {
			continue
		}
		escaped := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
		at := fmt.Sprintf("openapi.json#/paths/%s/%s/responses/%d/content/%s/schema", escaped.Replace(route), strings.ToLower(method), a.StatusCode, escaped.Replace(kind))
		c := jsonschema.NewCompiler()
		if err := c.AddResource("openapi.json", must(jsonschema.UnmarshalJSON(strings.NewReader(text)))); err != nil {
			t.Fatal(err)
		}
		schema, err := c.Compile(at)
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
