package resources_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What is no id is not there, and is no error of ours: Postgres takes neither a NUL nor what is not UTF-8.
func TestPathsWithoutAnID(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	for _, id := range []string{"%00", "%FF", "ds_%00", "x", "pr_" + strings.Repeat("0", 26)} {
		for _, route := range []string{"GET /v1/prompts/ID", "DELETE /v1/prompts/ID", "GET /v1/prompts/ID/versions", "GET /v1/datasets/ID", "DELETE /v1/datasets/ID", "GET /v1/datasets/ID/cases",
			"GET /v1/evaluations/ID", "DELETE /v1/evaluations/ID", "POST /v1/evaluations/ID/cancel", "GET /v1/evaluations/ID/results", "GET /v1/evaluations/ID/compare?with=ID"} {
			method, path, _ := strings.Cut(strings.ReplaceAll(route, "ID", id), " ")
			if strings.Contains(path, "with=") && strings.Contains(id, "%") {
				continue // a parameter that is no text is another refusal
			}
			r.expect(t, 404, "not_found", s.acme, method, path, "", "If-Match: *")
		}
	}
	if l := r.logged.String(); strings.Contains(l, "SQLSTATE") {
		t.Error(l)
	}
}

// JSON that Go takes and jsonb does not is refused, wherever it is stored as it came.
func TestJSONThatCannotBeStored(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	prompt, dataset := ready(t, s, 1)
	for value, code := range map[string]string{`"\ud800"`: "invalid_text", `"\udc00\ud800"`: "invalid_text", `{"a\ud83d":1}`: "invalid_text", `1e400000`: "invalid_number",
		`-1E-400000`: "invalid_number", `"\\\ud800"`: "invalid_text", `"\u0000"`: "invalid_text"} {
		for _, body := range []string{`"parameters":{"stop":%s},"scoring":{"type":"exact"}`, `"scoring":{"type":"json_schema","schema":{"const":%s}}`} {
			body = fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m",`, prompt, dataset) + fmt.Sprintf(body, value) + "}"
			r.expect(t, 400, code, s.acme, "POST", "/v1/evaluations", body, "Idempotency-Key: "+body[:40])
		}
	}
	for _, value := range []string{`"\ud83d\ude00"`, `"\\ud800"`, `1e308`, `"\\\\\u00e9"`} {
		r.expect(t, 201, "", s.acme, "POST", "/v1/evaluations", fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"parrot","parameters":{"stop":%s},"scoring":{"type":"exact"}}`, prompt, dataset, value))
	}
}

// Changes of data sets and evaluations are published, each in its transaction, on channels of their own.
func TestEachKindHasItsChannel(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	datasets, evaluations := must(s.replicas[1].node.Follow("$datasets:acme", 0)), must(s.replicas[1].node.Follow("$evaluations:acme", 0))
	t.Cleanup(func() { _, _ = datasets.Close(), evaluations.Close() })
	prompt, dataset := ready(t, s, 3)
	id := evaluate(t, s, prompt, dataset, "down", `{"type":"exact"}`)
	r.expect(t, 409, "in_use", s.acme, "DELETE", "/v1/datasets/"+dataset, "") // which publishes nothing
	r.expect(t, 204, "", s.acme, "DELETE", "/v1/evaluations/"+id, "")
	r.expect(t, 204, "", s.acme, "DELETE", "/v1/datasets/"+dataset, "")
	type change struct {
		Event, ID string
		Cases     int
	}
	read := func(next func() []string, want ...change) {
		var got []change
		for len(got) == 0 || got[len(got)-1].Event != "deleted" {
			for _, data := range next() {
				var one change
				if err := json.Unmarshal([]byte(data), &one); err != nil {
					t.Fatal(data, err)
				}
				if one.Event != "progress" {
					got = append(got, one)
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v was published, not %v", got, want)
		}
	}
	read(func() (data []string) {
		for _, m := range must(datasets.Next(t.Context())) {
			data = append(data, string(m.Data))
		}
		return data
	}, change{"created", dataset, 0}, change{"updated", dataset, 3}, change{"deleted", dataset, 3})
	read(func() (data []string) {
		for _, m := range must(evaluations.Next(t.Context())) {
			data = append(data, string(m.Data))
		}
		return data
	}, change{"created", id, 3}, change{"deleted", id, 3})
}

// A case of which nothing is expected comes back as one from both kinds of stream.
func TestNothingExpectedSurvivesARoundTrip(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	const lines = `{"variables":{"x":"1"}}` + "\n" + `{"variables":{"x":"2"},"expected":"y"}` + "\n"
	var paths []string
	for _, name := range []string{"a", "b", "c"} {
		paths = append(paths, "/v1/datasets/"+r.expect(t, 201, "", s.acme, "POST", "/v1/datasets", fmt.Sprintf(`{"name":%q}`, name)).prompt(t).ID+"/cases")
	}
	r.expect(t, 200, "", s.acme, "POST", paths[0], lines, "Content-Type: application/x-ndjson")
	r.expect(t, 200, "", s.acme, "POST", paths[1], r.expect(t, 200, "", s.acme, "GET", paths[0], "", "Accept: text/csv").body, "Content-Type: text/csv")
	r.expect(t, 200, "", s.acme, "POST", paths[2], r.expect(t, 200, "", s.acme, "GET", paths[1], "").body, "Content-Type: application/x-ndjson")
	for _, path := range paths {
		if got := r.expect(t, 200, "", s.acme, "GET", path, "").body; got != lines {
			t.Errorf("%s", got)
		}
	}
}
