package resources_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"forgewire/cache/llm"
)

var asked atomic.Int64

// parrot answers as our endpoint for models does: with what it was asked, in small letters.
func parrot(w http.ResponseWriter, r *http.Request) {
	asked.Add(1)
	caller, _ := llm.CallerFrom(r.Context())
	var request struct {
		Model    string
		Messages []struct{ Content string }
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || caller.Tenant != "acme" || caller.KeyID == "" || r.Header.Get(llm.HeaderClass) != llm.ClassEvaluation {
		http.Error(w, `{"error":{"code":"wrong_request"}}`, http.StatusBadRequest)
		return
	}
	text := request.Messages[0].Content
	switch request.Model {
	case "missing":
		http.Error(w, `{"error":{"code":"model_not_found"}}`, http.StatusNotFound)
		return
	case "down":
		http.Error(w, `{"error":{"code":"upstream_unreachable"}}`, http.StatusBadGateway)
		return
	case "judge":
		text = fmt.Sprintf(`My verdict: {"score": %d}`, strings.Count(text, "paris"))
	default:
		text = strings.ToLower(text)
	}
	w.Header().Set("Cache-Status", "forgewire; hit; ttl=1")
	_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": text}}}})
}

type evaluation struct {
	ID, Status            string
	Error                 *string
	Cases, Done, Passed   int
	Errors                int
	MeanScore             *float64 `json:"mean_score"`
	Name, Version, Object string
}

// ready makes a prompt and a data set with n cases, of which every third is what the parrot does not say.
func ready(t *testing.T, s *stack, n int) (prompt, dataset string) {
	t.Helper()
	r := s.replicas[0]
	prompt = r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", `{"name":"echo","template":"{{word}}"}`).prompt(t).ID
	dataset = r.expect(t, 201, "", s.acme, "POST", "/v1/datasets", `{"name":"words"}`).prompt(t).ID
	var b strings.Builder
	for i := range n {
		expected := fmt.Sprint("word ", i)
		if i%3 == 2 {
			expected = "something else"
		}
		fmt.Fprintf(&b, `{"variables":{"word":"Word %d","unused":"x"},"expected":%q}`+"\n", i, expected)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(b.String()))
	_ = z.Close()
	a := r.expect(t, 200, "", s.acme, "POST", "/v1/datasets/"+dataset+"/cases", zipped.String(), "Content-Type: application/x-ndjson", "Content-Encoding: gzip")
	if !strings.Contains(a.body, fmt.Sprintf(`"cases":%d,`, n)) || !strings.Contains(a.body, `"variables":["unused","word"]`) {
		t.Fatal(a.body)
	}
	return prompt, dataset
}

func (r *replica) evaluation(t *testing.T, key, id string) (e evaluation) {
	t.Helper()
	if a := r.expect(t, 200, "", key, "GET", "/v1/evaluations/"+id, ""); json.Unmarshal([]byte(a.body), &e) != nil {
		t.Fatal(a.body)
	}
	return e
}

func evaluate(t *testing.T, s *stack, prompt, dataset, model, scoring string) string {
	t.Helper()
	a := s.replicas[0].expect(t, 201, "", s.acme, "POST", "/v1/evaluations",
		fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":%q,"parameters":{"temperature":0},"scoring":%s}`, prompt, dataset, model, scoring))
	return a.prompt(t).ID
}

// Each way to score, results as both kinds of stream, progress on the channel, and two evaluations side by side.
func TestEvaluations(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[1]
	prompt, dataset := ready(t, s, 100)
	follower := must(r.node.Follow("$evaluations:acme", 0))
	t.Cleanup(func() { _ = follower.Close() })
	ids := map[string]string{}
	for name, c := range map[string]struct {
		model, scoring string
		passed, errors int
	}{
		"exact":   {"parrot", `{"type":"exact"}`, 67, 0},
		"regex":   {"parrot", `{"type":"regex","pattern":"^WORD [0-9]$","ignore_case":true}`, 10, 0},
		"schema":  {"parrot", `{"type":"json_schema","schema":{"type":"object"}}`, 0, 0},
		"judge":   {"parrot", `{"type":"judge","model":"judge","template":"{{output}} paris?"}`, 100, 0},
		"missing": {"missing", `{"type":"exact"}`, 0, 100},
	} {
		id := evaluate(t, s, prompt, dataset, c.model, c.scoring)
		ids[name] = id
		eventually(t, name, func() bool { return r.evaluation(t, s.acme, id).Status == "done" })
		if e := r.evaluation(t, s.acme, id); e.Passed != c.passed || e.Errors != c.errors || e.Done != 100 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	for done := false; !done; {
		for _, m := range must(follower.Next(t.Context())) {
			done = done || strings.Contains(string(m.Data), `"done":100`) || strings.Contains(string(m.Data), `"done": 100`)
		}
	}
	results := r.expect(t, 200, "", s.acme, "GET", "/v1/evaluations/"+ids["exact"]+"/results?after=97", "").body
	if strings.Count(results, "\n") != 3 || !strings.HasPrefix(results, `{"case":98,"score":1,"passed":true,"output":"word 97","cache":"hit"`) {
		t.Error(results)
	}
	table := r.expect(t, 200, "", s.acme, "GET", "/v1/evaluations/"+ids["exact"]+"/results?after=98", "", "Accept: text/csv").body
	if !strings.HasPrefix(table, "case,score,passed,output,error,cache,duration_ms\n99,0,false,word 98,,hit,") {
		t.Error(table)
	}
	compared := r.expect(t, 200, "", s.acme, "GET", "/v1/evaluations/"+ids["exact"]+"/compare?with="+ids["judge"]+"&limit=2", "").body
	if !strings.Contains(compared, `"both":100,"better":33,"worse":0,"same":67,`) || !strings.Contains(compared, `"has_more":true`) {
		t.Error(compared)
	}
	r.expect(t, 409, "in_use", s.acme, "DELETE", "/v1/prompts/"+prompt, "", "If-Match: *")
	r.expect(t, 409, "in_use", s.acme, "DELETE", "/v1/datasets/"+dataset, "")
	for _, path := range []string{"/v1/evaluations/" + ids["exact"], "/v1/evaluations/" + ids["exact"] + "/results", "/v1/datasets/" + dataset + "/cases", "/v1/datasets/" + dataset,
		"/v1/evaluations/" + ids["exact"] + "/compare?with=" + ids["judge"]} {
		r.expect(t, 404, "not_found", s.evil, "GET", path, "")
		r.expect(t, 401, "missing_api_key", "", "GET", path, "")
		r.expect(t, 401, "invalid_api_key", "x", "GET", path, "")
	}
	for _, route := range []struct{ method, path, body string }{
		{"DELETE", "/v1/datasets/" + dataset, ""}, {"POST", "/v1/datasets/" + dataset + "/cases?at=100", `{"variables":{"word":"x","unused":"x"}}`},
		{"DELETE", "/v1/evaluations/" + ids["judge"], ""}, {"POST", "/v1/evaluations/" + ids["judge"] + "/cancel", ""},
	} {
		headers := []string{"Content-Type: application/x-ndjson", "If-Match: *"}
		r.expect(t, 404, "not_found", s.evil, route.method, route.path, route.body, headers...)
		r.expect(t, 401, "missing_api_key", "", route.method, route.path, route.body, headers...)
		r.expect(t, 401, "invalid_api_key", "x", route.method, route.path, route.body, headers...)
	}
	if d := r.expect(t, 200, "", s.acme, "GET", "/v1/datasets/"+dataset, "").body; !strings.Contains(d, `"cases":100,`) || r.evaluation(t, s.acme, ids["judge"]).Done != 100 {
		t.Errorf("another tenant changed it: %s", d)
	}
	r.expect(t, 422, "no_such_resource", s.evil, "POST", "/v1/evaluations",
		fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m","scoring":{"type":"exact"}}`, prompt, dataset))
	for _, scoring := range []string{`{"type":"regex","pattern":"(?=x)"}`, `{"type":"json_schema","schema":{"$ref":"file:///etc/passwd"}}`, `{"type":"judge","template":"{{secret}}"}`, `{"type":"eval"}`,
		`{"type":"exact","threshold":2}`} {
		r.expect(t, 400, "invalid_scoring", s.acme, "POST", "/v1/evaluations",
			fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m","scoring":%s}`, prompt, dataset, scoring))
	}
	r.expect(t, 400, "invalid_parameters", s.acme, "POST", "/v1/evaluations",
		fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m","parameters":{"messages":[]},"scoring":{"type":"exact"}}`, prompt, dataset))
	// A model that is away is waited for, until somebody has enough.
	id := evaluate(t, s, prompt, dataset, "down", `{"type":"exact"}`)
	eventually(t, "it says what it waits for", func() bool {
		e := r.evaluation(t, s.acme, id)
		return e.Status == "running" && e.Error != nil && *e.Error == "upstream_unreachable" && e.Done == 0
	})
	r.expect(t, 200, "", s.acme, "POST", "/v1/evaluations/"+id+"/cancel", "")
	if e := r.evaluation(t, s.acme, id); e.Status != "cancelled" {
		t.Errorf("%+v", e)
	}
	r.expect(t, 204, "", s.acme, "DELETE", "/v1/evaluations/"+id, "")
}

// A worker that dies in the middle is replaced: no case is lost, and none is twice in the results.
func TestWorkerDies(t *testing.T) {
	s := newStack(t, "")
	prompt, dataset := ready(t, s, 3000)
	id := evaluate(t, s, prompt, dataset, "parrot", `{"type":"exact"}`)
	eventually(t, "it is in the middle", func() bool { e := s.replicas[0].evaluation(t, s.acme, id); return e.Done > 0 && e.Done < e.Cases })
	// As after kill -9: whoever had the job will not say so, and it is still marked as running. Another worker begins
	// beside the first one, which lives on as a ghost.
	pool := s.replicas[0].pool
	if _, err := pool.Exec(t.Context(), `UPDATE forgewire.river_job SET state = 'available' WHERE kind = 'evaluation' AND state = 'running'`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done", func() bool {
		// The two have one job. Who loses a batch must not end it: the other one's shift may be over before the evaluation
		// is, and then nobody would go on.
		var ended bool
		if err := pool.QueryRow(t.Context(), `SELECT finalized_at IS NOT NULL FROM forgewire.river_job WHERE kind = 'evaluation'`).Scan(&ended); err != nil {
			t.Fatal(err)
		}
		e := s.replicas[0].evaluation(t, s.acme, id)
		if ended && e.Status != "done" {
			t.Fatalf("the job has ended, and the evaluation has not: %+v", e)
		}
		return e.Status == "done"
	})
	var rows, numbers, last int
	err := pool.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT n), max(n) FROM forgewire.evaluation_results`).Scan(&rows, &numbers, &last)
	if e := s.replicas[0].evaluation(t, s.acme, id); err != nil || rows != 3000 || numbers != 3000 || last != 3000 || e.Done != 3000 || e.Passed != 2000 {
		t.Errorf("%d results of %d cases up to %d, %+v, %v", rows, numbers, last, e, err)
	}
}

// An import that was cut goes on where it was; nothing is stored twice; what is wrong says where.
func TestImports(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	id := r.expect(t, 201, "", s.acme, "POST", "/v1/datasets", `{"name":"d"}`).prompt(t).ID
	cases := "/v1/datasets/" + id + "/cases"
	var b strings.Builder
	b.WriteString("\ufeffword,expected\n")
	for i := range 2500 {
		fmt.Fprintf(&b, "\"w, %d\",e%d\n", i, i)
	}
	table := b.String()
	// The third chunk is broken.
	bad := r.expect(t, 400, "invalid_record", s.acme, "POST", cases, table+"one,two,three\n", "Content-Type: text/csv").body
	if !strings.Contains(bad, "record 2501") || !strings.Contains(bad, "the data set has 2000 cases now") {
		t.Error(bad)
	}
	r.expect(t, 409, "wrong_position", s.acme, "POST", cases, table, "Content-Type: text/csv")
	r.expect(t, 200, "", s.acme, "POST", cases+"?at=2000&skip=2000", table, "Content-Type: text/csv")
	r.expect(t, 409, "wrong_position", s.acme, "POST", cases+"?at=2000&skip=2000", table, "Content-Type: text/csv")
	if got := r.expect(t, 200, "", s.acme, "GET", cases, "", "Accept: text/csv").body; got != strings.TrimPrefix(strings.Replace(table, "word,expected", "word,expected", 1), "\ufeff") {
		t.Errorf("%d bytes came back of %d", len(got), len(table))
	}
	if lines := r.expect(t, 200, "", s.acme, "GET", cases+"?after=2499", "").body; lines != `{"variables":{"word":"w, 2499"},"expected":"e2499"}`+"\n" {
		t.Error(lines)
	}
	for body, kind := range map[string]string{`{"variables":{"other":"x"}}`: "application/x-ndjson", `{"variables":{"word":1}}`: "application/x-ndjson", "{": "application/x-ndjson",
		`{"variables":{"word":"` + strings.Repeat("x", 1<<20) + `"}}`: "application/x-ndjson", "word\n\"" + strings.Repeat("x", 3<<20) + "\"\n": "text/csv", "word\n\xff\n": "text/csv", "a,a\n1,2\n": "text/csv"} {
		r.expect(t, 400, "invalid_record", s.acme, "POST", cases+"?at=2500", body, "Content-Type: "+kind)
	}
	r.expect(t, 415, "unsupported_media_type", s.acme, "POST", cases, "x", "Content-Type: text/plain")
	r.expect(t, 400, "invalid_encoding", s.acme, "POST", cases, "x", "Content-Type: text/csv", "Content-Encoding: gzip")
}
