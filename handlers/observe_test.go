package handlers_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forgewire/handlers"
	"forgewire/infra/monitor"
)

const clientTakes = 300 * time.Millisecond

// slowly is a client that takes its time for the first of a body, in either direction.
type slowly struct {
	io.Reader
	*httptest.ResponseRecorder
	waited bool
}

func (s *slowly) wait() {
	if !s.waited {
		s.waited = true
		<-time.After(clientTakes)
	}
}

func (s *slowly) Read(p []byte) (int, error) { s.wait(); return s.Reader.Read(p) }

func (s *slowly) Write(p []byte) (int, error) { s.wait(); return s.ResponseRecorder.Write(p) }

// What a client takes to send or to accept a stream is not the time of the request.
func TestDurationsOfStreams(t *testing.T) {
	t.Parallel()
	m := monitor.New()
	c := newCluster(t, func(cfg *handlers.Config) { cfg.Monitor = m })
	ask := func(method, path, contentType, body string, slow bool) (reply string, took time.Duration, recorded monitor.Recorded) {
		t.Helper()
		client := &slowly{Reader: strings.NewReader(body), ResponseRecorder: httptest.NewRecorder(), waited: !slow}
		req := httptest.NewRequestWithContext(t.Context(), method, path, client)
		req.Header.Set("Authorization", "Bearer "+apiKey)
		req.Header.Set("Content-Type", contentType)
		began := time.Now()
		c.servers[0].Config.Handler.ServeHTTP(client, req)
		took = time.Since(began)
		if reply = client.Body.String(); client.Code >= http.StatusBadRequest {
			t.Fatalf("%s %s: %d %s", method, path, client.Code, reply)
		}
		return reply, took, m.Recent(1)[0]
	}
	created, _, _ := ask(http.MethodPost, "/v1/datasets", "application/json", `{"name":"d"}`, false)
	var set struct{ ID string }
	if err := json.Unmarshal([]byte(created), &set); err != nil {
		t.Fatal(err)
	}
	cases := "/v1/datasets/" + set.ID + "/cases"
	for _, r := range [][3]string{{http.MethodPost, cases, `{"variables":{"a":"b"}}`}, {http.MethodGet, cases, ""}, {http.MethodGet, "/v1/runs/export", ""}} {
		_, took, recorded := ask(r[0], r[1], "application/x-ndjson", r[2], true)
		if got := time.Duration(recorded.Duration * float64(time.Millisecond)); recorded.Method != r[0] || got <= 0 || got > took-clientTakes {
			t.Errorf("%s %s took %v, and is recorded as %+v", r[0], r[1], took, recorded)
		}
	}
}
