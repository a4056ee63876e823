package handlers_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"forgewire/handlers"
	"forgewire/handlers/admin"
)

// The document lists every route with its method, and no other.
func TestOpenAPIListsEveryRoute(t *testing.T) {
	t.Parallel()
	c := newDashboard(t)
	_, body := c.request(t, 0, http.MethodGet, "/api/openapi.json", "", "")
	var document struct {
		Openapi string
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &document); err != nil || document.Openapi != "3.1.0" {
		t.Fatalf("%q, %v", document.Openapi, err)
	}
	err := chi.Walk(c.routes[0], func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == http.MethodOptions || strings.HasPrefix(route, admin.Path+"/") {
			return nil // what browsers ask before they ask; and what is for our own page alone
		}
		method = strings.ToLower(method)
		if document.Paths[route][method] == nil {
			t.Errorf("the document lacks %s %s", method, route)
		}
		delete(document.Paths[route], method)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, methods := range document.Paths {
		for method := range methods {
			t.Errorf("the document has %s %s, which is not served", method, path)
		}
	}
}

// What is protected needs the key, in either header; without one configured it is closed, not open.
func TestKeyIsNeeded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	closed := newCluster(t, func(cfg *handlers.Config) { cfg.APIKey = "" })
	for _, path := range []string{"/metrics", "/api/stats"} {
		for key, want := range map[string]int{"": 401, "wrong": 401, apiKey: 200} {
			if status, _ := c.request(t, 0, http.MethodGet, path, key, ""); status != want {
				t.Errorf("%s with key %q: %d", path, key, status)
			}
		}
		if status, _ := closed.request(t, 0, http.MethodGet, path, "", ""); status != 403 {
			t.Errorf("%s without a configured key: %d", path, status)
		}
	}
	for _, m := range []string{"publish", "presence", "channels", "disconnect", "batch"} {
		if status, body := c.request(t, 0, http.MethodPost, "/api/"+m, "", `{}`); status != 401 || !strings.Contains(body, `"code":101`) {
			t.Errorf("%s without a key: %d %s", m, status, body)
		}
	}
	if status, _ := c.request(t, 0, http.MethodGet, "/api/publish", apiKey, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET of a POST: %d", status)
	}
}

// The figures count what happens.
func TestStatsAndMetrics(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	alice := c.connect(t, 0, "alice", "room:1")
	c.connect(t, 0, "alice", "plain")
	c.call(t, 0, "publish", `{"channel":"room:1","data":1}`)
	alice.do(t, `{"id":3,"ping":{}}`)
	c.call(t, 0, "disconnect", `{"user":"nobody"}`)
	var stats struct {
		Result struct {
			Connections struct {
				Total, Users, Limit, Accepted, Subscriptions int
				Utilisation                                  float64        `json:"utilisation_percent"`
				Disconnects                                  map[string]int `json:"disconnects"`
			}
			Messages struct{ Published, Received, Sent, Commands int }
			Listener struct {
				Connected bool
				Lag       struct{ Count int } `json:"lag_seconds"`
				Age       float64             `json:"last_notification_age_seconds"`
			}
			Flushes struct{ Messages struct{ Count int } }
		}
	}
	eventually(t, "the message is counted", func() bool {
		_, body := c.request(t, 0, http.MethodGet, "/api/stats", apiKey, "")
		c.conforms(t, "/paths/~1api~1stats/get/responses/200/content/application~1json/schema", body)
		return json.Unmarshal([]byte(body), &stats) == nil && stats.Result.Messages.Sent == 1 && stats.Result.Listener.Lag.Count == 1
	})
	s := stats.Result
	if s.Connections.Total != 2 || s.Connections.Users != 1 || s.Connections.Limit != 100 || s.Connections.Utilisation != 2 || s.Connections.Accepted != 2 ||
		s.Connections.Subscriptions != 2 || s.Messages.Published != 1 || s.Messages.Received != 1 || s.Messages.Commands != 5 ||
		!s.Listener.Connected || s.Listener.Age < 0 || s.Flushes.Messages.Count != 1 {
		t.Errorf("%+v", s)
	}
	c.call(t, 1, "disconnect", `{"user":"alice"}`)
	alice.closed(t)
	var body string
	eventually(t, "both ends are counted", func() bool {
		_, body = c.request(t, 0, http.MethodGet, "/metrics", apiKey, "")
		return strings.Contains(body, `forgewire_client_num_server_disconnects{code="3503"} 2`)
	})
	for _, line := range []string{"forgewire_node_num_clients_limit 100", `forgewire_node_build{version="test"} 1`,
		"forgewire_client_connections_accepted 2", "forgewire_publisher_flush_messages_count 1", "forgewire_broker_pub_sub_lag_seconds_bucket", "go_goroutines"} {
		if !strings.Contains(body, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// With a port of their own, the metrics are not on the main one.
func TestMetricsElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *handlers.Config) { cfg.MetricsElsewhere = true })
	if status, _ := c.request(t, 0, http.MethodGet, "/metrics", apiKey, ""); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
}

// An export is filtered as the list is, and by nothing else; how often one may ask is told everywhere.
func TestOpenAPIOfExportsAndLimits(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	get := func(path string) (int, string) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, m.server.URL+path, nil))
		req.Header.Set("Authorization", "Bearer "+m.credentials["key"])
		resp := must(m.server.Client().Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body)))
	}
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name string }
			Responses  map[string]json.RawMessage
		}
	}
	_, body := get("/api/openapi.json")
	if err := json.Unmarshal([]byte(body), &document); err != nil {
		t.Fatal(err)
	}
	valid := map[string]string{"after": "", "model": "m", "answer_id": "a", "status": "200", "cache": "hit", "since": "1", "until": "2030-01-01T00:00:00Z", "limit": "1"}
	for path, want := range map[string]int{"/v1/runs": 8, "/v1/runs/export": 7} {
		documented := map[string]bool{}
		for _, p := range document.Paths[path]["get"].Parameters {
			documented[p.Name] = true
		}
		if len(documented) != want {
			t.Errorf("%s has the parameters %v", path, documented)
		}
		for name, value := range valid {
			if value == "" {
				continue // only an answer has a value for it
			}
			if status, body := get(path + "?" + name + "=" + value); (status == http.StatusOK) != documented[name] {
				t.Errorf("%s?%s=%s, documented %v: %d %s", path, name, value, documented[name], status, body)
			}
		}
	}
	for _, path := range []string{"/v1/runs", "/v1/runs/export", "/v1/usage", "/v1/prompts", "/v1/datasets/{id}/cases", "/v1/evaluations/{id}"} {
		for method, operation := range document.Paths[path] {
			if operation.Responses["429"] == nil {
				t.Errorf("%s %s is never too much", method, path)
			}
		}
	}
}
