package resources_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/db/dbtest"
)

const greet = `{"name":"greet","template":"Hello {{name}}"}`

// A prompt's life: made, read, versions, labels, renamed, rendered, deleted.
func TestPromptsLife(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	a, b := s.replicas[0], s.replicas[1]
	made := a.expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet)
	p := made.prompt(t)
	at := "/v1/prompts/" + p.ID
	if p.Name != "greet" || p.Version != 1 || !slices.Equal(p.Variables, []string{"name"}) || made.Header.Get("Location") != at || made.Header.Get("Etag") != p.ETag {
		t.Errorf("%+v, %v", p, made.Header)
	}
	second := a.expect(t, 201, "", s.acme, "POST", at+"/versions", `{"template":"Good day, {{ title }} {{name}}. \\{{not}} {one}"}`).prompt(t)
	if second.Version != 2 || !slices.Equal(second.Variables, []string{"name", "title"}) || second.ETag == p.ETag {
		t.Errorf("%+v", second)
	}
	a.expect(t, 428, "precondition_required", s.acme, "PUT", at+"/labels/production", `{"version":1}`)
	a.expect(t, 412, "precondition_failed", s.acme, "PUT", at+"/labels/production", `{"version":1}`, "If-Match: "+p.ETag)
	a.expect(t, 422, "no_such_version", s.acme, "PUT", at+"/labels/production", `{"version":3}`, "If-Match: *")
	// A proxy that compresses makes the tag weak.
	third := a.expect(t, 200, "", s.acme, "PUT", at+"/labels/production", `{"version":1}`, "If-Match: W/"+second.ETag).prompt(t)
	if third.Labels["production"] != 1 || third.Version != 2 {
		t.Errorf("%+v", third)
	}
	eventually(t, "the other replica has the label", func() bool {
		p := b.do(t, s.acme, "GET", at+"?label=production", "").prompt(t)
		return p.Version == 1 && p.Newest == 2 && p.Template == "Hello {{name}}"
	})
	if p := b.expect(t, 200, "", s.acme, "GET", at+"?version=2", "").prompt(t); p.Version != 2 {
		t.Errorf("%+v", p)
	}
	b.expect(t, 404, "not_found", s.acme, "GET", at+"?version=3", "")
	b.expect(t, 404, "not_found", s.acme, "GET", at+"?label=staging", "")
	var versions struct{ Data []struct{ Version int } }
	if body := b.expect(t, 200, "", s.acme, "GET", at+"/versions", "").body; json.Unmarshal([]byte(body), &versions) != nil || len(versions.Data) != 2 || versions.Data[0].Version != 2 {
		t.Error(body)
	}
	text := `"text":"Good day, Dr. {{name}} O'Hara. {{not}} {one}"`
	if r := a.expect(t, 200, "", s.acme, "POST", at+"/render", `{"variables":{"title":"Dr. {{name}}","name":"O'Hara"}}`); !strings.Contains(r.body, text) {
		t.Errorf("a value was looked at again, or the braces: %s", r.body)
	}
	a.expect(t, 422, "missing_variable", s.acme, "POST", at+"/render", `{"variables":{"title":"Dr."}}`)
	a.expect(t, 422, "unknown_variable", s.acme, "POST", at+"/render", `{"label":"production","variables":{"name":"x","title":"Dr."}}`)
	renamed := a.expect(t, 200, "", s.acme, "PATCH", at, `{"name":"salute"}`, "If-Match: "+third.ETag).prompt(t)
	if renamed.Name != "salute" {
		t.Errorf("%+v", renamed)
	}
	a.expect(t, 200, "", s.acme, "DELETE", at+"/labels/production", "", "If-Match: *")
	a.expect(t, 404, "not_found", s.acme, "DELETE", at+"/labels/production", "", "If-Match: *")
	a.expect(t, 428, "precondition_required", s.acme, "DELETE", at, "")
	a.expect(t, 204, "", s.acme, "DELETE", at, "", "If-Match: *")
	a.expect(t, 404, "not_found", s.acme, "GET", at, "")
	eventually(t, "the other replica has it no more", func() bool { return b.do(t, s.acme, "GET", at, "").StatusCode == 404 })
}

// A write is seen on the replica that answered it at once, and on the other one with the notification, from the cache.
func TestReplicasReadTheirWrites(t *testing.T) {
	t.Parallel()
	for _, with := range []string{"", "Valkey"} {
		t.Run("with "+with, func(t *testing.T) {
			t.Parallel()
			url := ""
			if with != "" {
				url = dbtest.Valkey(t, nil).URL()
			}
			s := newStack(t, url)
			p := s.replicas[0].expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet).prompt(t)
			at := "/v1/prompts/" + p.ID
			for n := 2; n < 40; n++ {
				writer, reader := s.replicas[n%2], s.replicas[1-n%2]
				for _, r := range s.replicas { // so that both have it in their cache
					r.expect(t, 200, "", s.acme, "GET", at, "")
				}
				writer.expect(t, 201, "", s.acme, "POST", at+"/versions", fmt.Sprintf(`{"template":"version %d"}`, n))
				if p := writer.expect(t, 200, "", s.acme, "GET", at, "").prompt(t); p.Version != n {
					t.Fatalf("the writer read version %d after it had written %d", p.Version, n)
				}
				eventually(t, "the other replica has the new version", func() bool { return reader.do(t, s.acme, "GET", at, "").prompt(t).Version == n })
				if p := reader.expect(t, 200, "", s.acme, "GET", at, "", "Cache-Control: no-cache").prompt(t); p.Version != n {
					t.Fatalf("the database has version %d", p.Version)
				}
			}
			// Read once more, the database may be asked nothing.
			tag := s.replicas[0].expect(t, 200, "", s.acme, "GET", at, "").Header.Get("Etag")
			got := s.replicas[0].expect(t, 304, "", s.acme, "GET", at, "", `If-None-Match: "0", W/`+tag)
			if got.body != "" || got.Header.Get("Etag") != tag || got.Header.Get("Cache-Control") != "private, no-cache" {
				t.Errorf("%v %q", got.Header, got.body)
			}
			s.isCached(t, "prompts", at)
		})
	}
}

// isCached changes a table behind the first replica's back, which reads the resource from its cache and so does not see it. It
// returns the name that the table has now.
func (s *stack) isCached(t testing.TB, table, at string) (name string) {
	t.Helper()
	r, tries := s.replicas[0], 0
	eventually(t, "it is read from the cache", func() bool { // once the word of the last change has come here, too
		tries++
		name = fmt.Sprint("behind our back, ", tries)
		err := db.InTenant(t.Context(), r.pool, "acme", func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "UPDATE forgewire."+table+" SET name = $1", name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r.expect(t, 200, "", s.acme, "GET", at, "").dataset(t).Name != name // a prompt has one, too
	})
	return name
}

// Each change is published on the tenant's own channel, in its transaction, and says nothing of the template.
func TestChangesArePublished(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	follower := must(s.replicas[1].node.Follow("$prompts:acme", 0))
	t.Cleanup(func() { _ = follower.Close() })
	p := s.replicas[0].expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet).prompt(t)
	s.replicas[0].expect(t, 412, "precondition_failed", s.acme, "DELETE", "/v1/prompts/"+p.ID, "", `If-Match: "9"`)
	s.replicas[0].expect(t, 201, "", s.evil, "POST", "/v1/prompts", greet)
	s.replicas[0].expect(t, 204, "", s.acme, "DELETE", "/v1/prompts/"+p.ID, "", "If-Match: "+p.ETag)
	var got []string
	for len(got) < 2 {
		for _, m := range must(follower.Next(t.Context())) {
			got = append(got, string(m.Data))
		}
	}
	for i, event := range []string{"created", "deleted"} {
		var change struct{ Event, ID string }
		if err := json.Unmarshal([]byte(got[i]), &change); err != nil || change.Event != event || change.ID != p.ID || strings.Contains(got[i], "Hello") {
			t.Errorf("%s: %v", got[i], err)
		}
	}
}

// Who has no key, a wrong one or another tenant's finds nothing, and changes nothing.
func TestTenantsDoNotMeet(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	p := r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet).prompt(t)
	at := "/v1/prompts/" + p.ID
	r.expect(t, 200, "", s.acme, "GET", at, "") // so that it is in the cache
	for _, route := range []struct{ method, path, body string }{
		{"GET", at, ""}, {"PATCH", at, `{"name":"x"}`}, {"DELETE", at, ""}, {"POST", at + "/versions", `{"template":"x"}`}, {"GET", at + "/versions", ""},
		{"PUT", at + "/labels/production", `{"version":1}`}, {"DELETE", at + "/labels/production", ""}, {"POST", at + "/render", `{}`},
		{"GET", "/v1/prompts", ""}, {"POST", "/v1/prompts", greet}} {
		none := r.expect(t, 401, "missing_api_key", "", route.method, route.path, route.body)
		if none.Header.Get("Www-Authenticate") != "Bearer" {
			t.Error("no challenge")
		}
		r.expect(t, 401, "invalid_api_key", s.acme[:len(s.acme)-4]+"aaaa", route.method, route.path, route.body)
		if strings.HasPrefix(route.path, at) {
			r.expect(t, 404, "not_found", s.evil, route.method, route.path, route.body, "If-Match: *")
		}
	}
	if list := r.expect(t, 200, "", s.evil, "GET", "/v1/prompts?name=greet", "").body; !strings.Contains(list, `"data":[]`) {
		t.Error(list)
	}
	r.expect(t, 201, "", s.evil, "POST", "/v1/prompts", greet) // a name is the tenant's own
	if got := r.expect(t, 200, "", s.acme, "GET", at, "").prompt(t); got.ETag != p.ETag {
		t.Errorf("%+v", got)
	}
}

// What is not understood is refused, with a code, and never stored in part.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	p := r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet).prompt(t)
	at := "/v1/prompts/" + p.ID
	body := func(name, template string) string {
		return string(must(json.Marshal(map[string]string{"name": name, "template": template})))
	}
	for _, c := range []struct {
		status                   int
		code, method, path, body string
	}{
		{400, "invalid_json", "POST", "/v1/prompts", `{"name":`},
		{400, "invalid_json", "POST", "/v1/prompts", `{"name":"a","template":"b"} {}`},
		{400, "invalid_json", "POST", "/v1/prompts", ` `},
		{400, "wrong_type", "POST", "/v1/prompts", `{"name":7,"template":"b"}`},
		{400, "wrong_type", "POST", "/v1/prompts", `[]`},
		{400, "unknown_field", "POST", "/v1/prompts", `{"name":"a","template":"b","tenant":"evil"}`},
		{400, "duplicate_name", "POST", "/v1/prompts", `{"name":"a","template":"b","name":"c"}`},
		{400, "duplicate_name", "POST", "/v1/prompts", `{"name":"a","template":"b","Name":"c"}`},
		{400, "duplicate_name", "POST", at + "/render", `{"variables":{"name":"a","name":"b"}}`},
		{400, "body_too_deep", "POST", "/v1/prompts", `{"name":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`},
		{400, "invalid_utf8", "POST", "/v1/prompts", "{\"name\":\"\xff\",\"template\":\"b\"}"},
		{400, "invalid_text", "POST", "/v1/prompts", `{"name":"a\u0000","template":"b"}`},
		{413, "body_too_large", "POST", "/v1/prompts", body("a", strings.Repeat("x", 1<<20))},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", strings.Repeat("x", 256<<10+1))},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", "")},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", "{{name")},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", "{{ .Env.SECRET }}")},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", "{{range $x}}")},
		{400, "invalid_template", "POST", "/v1/prompts", body("a", "{{}}")},
		{400, "invalid_name", "POST", "/v1/prompts", body("", "b")},
		{400, "invalid_name", "POST", "/v1/prompts", body(strings.Repeat("n", 201), "b")},
		{409, "name_taken", "POST", "/v1/prompts", greet},
		{400, "invalid_parameter", "GET", "/v1/prompts?limit=0", ""},
		{400, "invalid_parameter", "GET", "/v1/prompts?limit=101", ""},
		{400, "invalid_parameter", "GET", "/v1/prompts?after=x", ""},
		{400, "invalid_parameter", "GET", "/v1/prompts?after=cHJvbXB0cyAnOyBEUk9QIFRBQkxF", ""}, // "prompts '; DROP TABLE"
		{400, "invalid_parameter", "GET", "/v1/prompts?nam=greet", ""},
		{400, "invalid_parameter", "GET", "/v1/prompts?name=a&name=b", ""},
		{400, "invalid_parameter", "GET", at + "?version=0", ""},
		{400, "invalid_parameter", "GET", at + "?version=1&label=a", ""},
		{400, "invalid_parameter", "GET", at + "?label=%27%20OR%201%3D1", ""},
		{400, "invalid_label", "PUT", at + "/labels/PROD", `{"version":1}`},
		{404, "not_found", "GET", "/v1/prompts/pr_x'%20OR%20'1'='1", ""},
		{404, "no_such_path", "GET", at + "/nothing", ""},
		{405, "method_not_allowed", "PUT", "/v1/prompts", "{}"},
	} {
		r.expect(t, c.status, c.code, s.acme, c.method, c.path, c.body, "If-Match: *")
	}
	r.expect(t, 415, "unsupported_media_type", s.acme, "POST", "/v1/prompts", greet, "Content-Type: text/plain")
	r.expect(t, 400, "invalid_idempotency_key", s.acme, "POST", "/v1/prompts", greet, "Idempotency-Key: "+strings.Repeat("k", 256))
	name := `"; DROP TABLE forgewire.prompts; --' OR ''='`
	made := r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", body(name, "x")).prompt(t)
	if made.Name != name {
		t.Errorf("%+v", made)
	}
	if list := r.expect(t, 200, "", s.acme, "GET", "/v1/prompts", "").body; strings.Count(list, `"object":"prompt"`) != 2 {
		t.Errorf("something was stored: %s", list)
	}
	if l := r.logged.String(); strings.Contains(l, "SQLSTATE") || strings.Contains(l, "a request failed") {
		t.Errorf("bad input became an error of ours: %s", l)
	}
}

// Pages have each prompt once, also while others are made, and a cursor is of its own list alone.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	made := map[string]int{}
	create := func(i int) string {
		return r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", fmt.Sprintf(`{"name":"p%d","template":"x"}`, i)).prompt(t).ID
	}
	for i := range 7 {
		made[create(i)] = 0
	}
	var last string
	for after := ""; ; {
		var page struct {
			Data    []prompt
			HasMore bool `json:"has_more"`
			After   *string
		}
		body := r.expect(t, 200, "", s.acme, "GET", "/v1/prompts?limit=3"+after, "").body
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Data {
			if _, known := made[p.ID]; known {
				made[p.ID]++
			}
			if last != "" && p.ID >= last {
				t.Errorf("%s comes after %s", p.ID, last)
			}
			last = p.ID
		}
		if create(len(made) * 100); page.HasMore != (page.After != nil) {
			t.Error(body)
		}
		if made["x"] = 1; !page.HasMore {
			break
		}
		after = "&after=" + *page.After
		r.expect(t, 400, "invalid_parameter", s.acme, "GET", "/v1/prompts/"+last+"/versions?limit=1"+after, "")
		delete(made, "x")
		made[create(len(made)*1000)] = 1
	}
	for id, n := range made {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

// A request that is sent again, also at the same time and at another replica, is done once.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	const key = "Idempotency-Key: 8e03978e"
	var mu sync.Mutex
	ids := map[string]int{}
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			a := s.replicas[i%2].expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet, key)
			mu.Lock()
			defer mu.Unlock()
			ids[a.Header.Get("Location")+a.body+a.Header.Get("Etag")]++
		})
	}
	all.Wait()
	if len(ids) != 1 {
		t.Errorf("%d answers", len(ids))
	}
	r := s.replicas[0]
	if a := r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet, key); a.Header.Get("Idempotency-Replayed") != "true" {
		t.Error("it does not say that it is a replay")
	}
	r.expect(t, 422, "idempotency_key_reused", s.acme, "POST", "/v1/prompts", `{"name":"other","template":"x"}`, key)
	r.expect(t, 201, "", s.evil, "POST", "/v1/prompts", `{"name":"other","template":"x"}`, key) // another's key is another key
	// What failed is not kept: sent again, it is done.
	p := s.replicas[0].do(t, s.acme, "GET", "/v1/prompts?name=greet", "")
	var list struct{ Data []prompt }
	if json.Unmarshal([]byte(p.body), &list) != nil || len(list.Data) != 1 {
		t.Fatal(p.body)
	}
	r.expect(t, 409, "name_taken", s.acme, "POST", "/v1/prompts", greet, "Idempotency-Key: second")
	r.expect(t, 204, "", s.acme, "DELETE", "/v1/prompts/"+list.Data[0].ID, "", "If-Match: *")
	r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet, "Idempotency-Key: second")
	// After a day it is forgotten, and the row goes with the next request of anybody.
	if _, err := r.pool.Exec(t.Context(), "UPDATE forgewire.answers SET expires_at = now() - interval '1 s'"); err != nil {
		t.Fatal(err)
	}
	r.expect(t, 201, "", s.acme, "POST", "/v1/prompts", `{"name":"later","template":"x"}`, key)
	if n := 0; r.pool.QueryRow(t.Context(), "SELECT count(*) FROM forgewire.answers").Scan(&n) != nil || n != 1 {
		t.Errorf("%d answers are kept", n)
	}
}

// Of two writers at once who read the same, one is told that he lost; versions have no holes.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	p := s.replicas[0].expect(t, 201, "", s.acme, "POST", "/v1/prompts", greet).prompt(t)
	at := "/v1/prompts/" + p.ID
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses, versions := map[int]int{}, map[int]bool{}
	for i := range 10 {
		all.Go(func() {
			r := s.replicas[i%2]
			status := r.do(t, s.acme, "PATCH", at, fmt.Sprintf(`{"name":"name %d"}`, i), "If-Match: "+p.ETag).StatusCode
			v := r.expect(t, 201, "", s.acme, "POST", at+"/versions", `{"template":"x"}`).prompt(t)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
			versions[v.Version] = true
		})
	}
	all.Wait()
	// A version that was made first is a change as well: then nobody has what is there.
	if statuses[http.StatusOK] > 1 || statuses[http.StatusOK]+statuses[http.StatusPreconditionFailed] != 10 || len(versions) != 10 || !versions[11] || !versions[2] {
		t.Errorf("%v %v", statuses, versions)
	}
}
