package handlers_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"forgewire/cache"
	"forgewire/handlers"
	"forgewire/infra/monitor"
)

type v1Stats struct {
	Replica struct {
		ID, Name, Version string
		HTTP              monitor.Stats
		Pools             map[string]struct {
			Ceiling  int `json:"ceiling"`
			Acquired int `json:"acquired"`
		}
	}
	Cluster struct {
		HTTP  monitor.Stats
		Pools map[string]struct {
			Ceiling int `json:"ceiling"`
		}
		Replicas []struct{ Name string }
	}
}

// of returns the figures of a route.
func of(t *testing.T, s monitor.Stats, method, route string) monitor.RouteStats {
	t.Helper()
	for _, r := range s.Routes {
		if r.Method == method && r.Route == route {
			return r
		}
	}
	t.Errorf("nothing about %s %s in %+v", method, route, s.Routes)
	return monitor.RouteStats{}
}

// Requests are counted by route on each replica, and summed up over all; a stream counts when it begins.
func TestV1Stats(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	get := func(replica int, path string) (s v1Stats) {
		t.Helper()
		status, body := c.request(t, replica, http.MethodGet, path, apiKey, "")
		c.conforms(t, "/paths/~1v1~1stats/get/responses/200/content/application~1json/schema", body)
		if err := json.Unmarshal([]byte(body), &s); status != http.StatusOK || err != nil {
			t.Fatalf("%s: %d %s, %v", path, status, body, err)
		}
		return s
	}
	for replica, n := range []int{3, 2} {
		for range n {
			c.call(t, replica, "publish", `{"channel":"a","data":1}`)
		}
	}
	for _, path := range []string{"/nowhere", "/v1/nowhere", "/.env"} {
		c.request(t, 0, http.MethodGet, path, "", "")
	}
	c.request(t, 0, http.MethodPost, "/api/publish", "wrong", "{}")
	c.connect(t, 0, "alice", "a")
	stream, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.servers[0].URL+"/v1/channels/secret-name/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp := must(http.DefaultClient.Do(stream)) //nolint:bodyclose // it is closed below
	defer resp.Body.Close()
	if _, err = bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the handshake's handler has ended", func() bool {
		_, body := c.request(t, 0, http.MethodGet, "/v1/stats", apiKey, "")
		return strings.Contains(body, `"/connection/websocket"`)
	})
	mine := get(0, "/v1/stats").Replica
	publish := of(t, mine.HTTP, "POST", "/api/publish")
	if publish.Statuses["2xx"] != 3 || publish.Window.Count != 3 || publish.Total.Count != 3 || publish.Window.P50 <= 0 {
		t.Errorf("publish: %+v", publish)
	}
	if r := of(t, mine.HTTP, "POST", "/api/*"); r.Statuses["4xx"] != 1 {
		t.Errorf("without a key: %+v", r)
	}
	if r := of(t, mine.HTTP, "GET", "unmatched"); r.Statuses["4xx"] != 3 {
		t.Errorf("unmatched: %+v", r)
	}
	if r := of(t, mine.HTTP, "GET", "/v1/channels/{channel}/events"); r.Statuses["2xx"] != 1 {
		t.Errorf("a stream that goes on: %+v", r)
	}
	if r := of(t, mine.HTTP, "GET", "/connection/websocket"); r.Statuses["1xx"] != 1 {
		t.Errorf("websockets: %+v", r)
	}
	if mine.ID == "" || mine.Name != "replica 0" || mine.Pools["requests"].Ceiling != 35 || mine.Pools["requests"].Acquired == 0 {
		t.Errorf("%+v", mine)
	}

	var s v1Stats
	eventually(t, "both replicas answer in time", func() bool {
		s = get(1, "/v1/stats?scope=cluster")
		return len(s.Cluster.Replicas) == 2
	})
	all := s.Cluster
	if r := of(t, all.HTTP, "POST", "/api/publish"); r.Statuses["2xx"] != 5 || r.Total.Count != 5 || r.Window.Count != 5 || r.TotalHist != "" {
		t.Errorf("publish, of all: %+v", r)
	}
	if all.Replicas[0].Name != "replica 0" || all.Replicas[1].Name != "replica 1" || all.Pools["requests"].Ceiling != 70 {
		t.Errorf("%+v", all.Replicas)
	}
	if time.Since(all.HTTP.Since) > time.Hour {
		t.Errorf("all since %v", all.HTTP.Since)
	}
	if s := get(0, "/v1/stats?recent=2").Replica.HTTP.Recent; len(s) != 2 || s[0].Route != "/v1/stats" || s[0].Status != http.StatusOK || s[1].Time.After(s[0].Time) {
		t.Errorf("the last two: %+v", s)
	}
	if s := all.HTTP.Recent; len(s) < 5 || len(s) > 20 {
		t.Errorf("the last of all: %+v", s)
	}
	for _, query := range []string{"recent=0", "recent=10001", "recent=x", "recent=2&scope=cluster"} {
		if status, _ := c.request(t, 0, http.MethodGet, "/v1/stats?"+query, apiKey, ""); status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, status)
		}
	}
	if status, _ := c.request(t, 0, http.MethodGet, "/v1/stats?scope=planet", apiKey, ""); status != http.StatusBadRequest {
		t.Errorf("scope=planet: %d", status)
	}
	if status, _ := c.request(t, 0, http.MethodGet, "/v1/stats", "", ""); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", status)
	}
	_, metrics := c.request(t, 0, http.MethodGet, "/metrics", apiKey, "")
	for _, line := range []string{`forgewire_http_requests_total{method="POST",route="/api/publish",status="2xx"} 3`,
		`forgewire_http_request_duration_seconds_count{method="POST",route="/api/publish"} 3`, `forgewire_db_pool_max_connections{pool="requests"} 35`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(metrics, "secret-name") {
		t.Error("a channel's name is in the metrics")
	}
}

// What the cache and the models did is in the metrics; a cache that is away is told, and the replica stays ready.
func TestCacheInMetricsAndHealth(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, func(cfg *handlers.Config) {
		cfg.Cache = must(cache.New(cache.Config{URL: "redis://127.0.0.1:1", LocalBytes: 1 << 20, Log: cfg.Logger})) // nobody is there
	})
	get := func(path string) string {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, m.server.URL+path, nil))
		req.Header.Set("X-API-Key", apiKey)
		resp := must(m.server.Client().Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		body := string(must(io.ReadAll(resp.Body)))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
		}
		return body
	}
	if body := get("/readyz"); body != `{"status":"degraded","cache":"unavailable"}` {
		t.Error(body)
	}
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, m.server.URL+"/v1/embeddings", strings.NewReader(`{"model":"m","input":"x"}`)))
	req.Header.Set("Authorization", "Bearer "+apiKey)
	resp := must(m.server.Client().Do(req)) //nolint:bodyclose // it is closed below
	resp.Body.Close()
	eventually(t, "the request is counted", func() bool { return strings.Contains(get("/metrics"), "forgewire_llm_failed_total 1") })
	metrics := get("/metrics")
	for _, line := range []string{"forgewire_cache_available 0", `forgewire_cache_lookups_total{result="miss"}`, `forgewire_llm_requests_total{cache="hit"} 0`,
		"forgewire_llm_paid_total 0", "forgewire_llm_upstreams_away 0"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}
