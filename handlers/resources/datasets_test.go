package resources_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"forgewire/db/dbtest"
)

type dataset struct {
	ID, Name, ETag string
	Cases          int
	Updated        string `json:"updated_at"`
}

func (a answer) dataset(t testing.TB) (d dataset) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &d); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return d
}

// What an import adds and a delete takes away is seen on the replica that did it at once, and on the other one with the
// notification, from the cache.
func TestReplicasReadTheirDatasets(t *testing.T) {
	t.Parallel()
	for _, with := range []string{"", "Valkey"} {
		t.Run("with "+with, func(t *testing.T) {
			t.Parallel()
			url := ""
			if with != "" {
				url = dbtest.Valkey(t, nil).URL()
			}
			s := newStack(t, url)
			made := s.replicas[0].expect(t, 201, "", s.acme, "POST", "/v1/datasets", `{"name":"words"}`)
			at := "/v1/datasets/" + made.dataset(t).ID
			if made.Header.Get("Etag") != `"0"` || made.dataset(t).ETag != `"0"` || made.Header.Get("Location") != at {
				t.Errorf("%v %s", made.Header, made.body)
			}
			for n := 1; n < 30; n++ {
				writer, reader := s.replicas[n%2], s.replicas[1-n%2]
				for _, r := range s.replicas { // so that both have it in their cache
					r.expect(t, 200, "", s.acme, "GET", at, "")
				}
				added := writer.expect(t, 200, "", s.acme, "POST", fmt.Sprintf("%s/cases?at=%d", at, n-1), `{"variables":{"x":"y"}}`+"\n", "Content-Type: application/x-ndjson")
				read := writer.expect(t, 200, "", s.acme, "GET", at, "")
				if read.body != added.body || read.dataset(t).Cases != n || read.Header.Get("Etag") != added.Header.Get("Etag") {
					t.Fatalf("the writer read %s after it had written %s", read.body, added.body)
				}
				eventually(t, "the other replica has the new case", func() bool { return reader.do(t, s.acme, "GET", at, "").body == added.body })
			}
			r := s.replicas[0]
			tag := r.expect(t, 200, "", s.acme, "GET", at, "").Header.Get("Etag")
			if got := r.expect(t, 304, "", s.acme, "GET", at, "", "If-None-Match: "+tag); got.body != "" || got.Header.Get("Etag") != tag {
				t.Errorf("%v %q", got.Header, got.body)
			}
			name := s.isCached(t, "datasets", at)
			if got := r.expect(t, 200, "", s.acme, "GET", at, "", "Cache-Control: no-cache").dataset(t).Name; got != name {
				t.Errorf("the database was not asked: %s", got)
			}
			r.expect(t, 404, "not_found", s.evil, "GET", at, "", "If-None-Match: *")
			r.expect(t, 204, "", s.acme, "DELETE", at, "")
			r.expect(t, 404, "not_found", s.acme, "GET", at, "")
			eventually(t, "the other replica has it no more", func() bool { return s.replicas[1].do(t, s.acme, "GET", at, "").StatusCode == 404 })
		})
	}
}

// Who read what is there no more deletes nothing, and adds nothing.
func TestDatasetsThatHaveChanged(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	at := "/v1/datasets/" + r.expect(t, 201, "", s.acme, "POST", "/v1/datasets", `{"name":"words"}`).dataset(t).ID
	const line, ndjson = `{"variables":{"x":"y"}}` + "\n", "Content-Type: application/x-ndjson"
	first := r.expect(t, 200, "", s.acme, "POST", at+"/cases", line, ndjson, `If-Match: "0"`)
	r.expect(t, 412, "precondition_failed", s.acme, "POST", at+"/cases?at=1", line, ndjson, `If-Match: "0"`)
	r.expect(t, 412, "precondition_failed", s.acme, "DELETE", at, "", `If-Match: "0"`)
	r.expect(t, 404, "not_found", s.evil, "DELETE", at, "", "If-Match: *")
	// An import of nothing changes nothing, so the tag is still that of what is there.
	none := r.expect(t, 200, "", s.acme, "POST", at+"/cases?at=1", "", ndjson, "If-Match: *")
	if got := r.expect(t, 200, "", s.acme, "GET", at, ""); got.body != first.body || none.body != first.body || got.Header.Get("Etag") != first.Header.Get("Etag") {
		t.Errorf("%s, %s and %s", first.body, none.body, got.body)
	}
	r.expect(t, 204, "", s.acme, "DELETE", at, "", "If-Match: W/"+first.Header.Get("Etag"))
}
