package handlers_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/resources"
	"forgewire/infra/memory"
)

const testLimit = 4 << 20 // of which an eighth may be reserved, and each byte of a body counts four times

func newTestGovernor(used *atomic.Uint64) *memory.Governor {
	return must(memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler),
		Limit: func() (uint64, error) { return testLimit, nil }, Used: func() (uint64, error) { return used.Load(), nil }}))
}

// What models are asked is weighed, too: images are large.
func TestModelsAreAskedWhatFits(t *testing.T) {
	t.Parallel()
	var used atomic.Uint64
	governor := newTestGovernor(&used)
	m := newMatrix(t, func(cfg *handlers.Config) { cfg.Memory = governor })
	ask := func(endpoint string, size int) (int, string, http.Header) {
		t.Helper()
		body := `{"model":"m","input":"x","prompt":"x","messages":[{"role":"user","content":"` + strings.Repeat("x", size) + `"}]}`
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, m.server.URL+"/v1/"+endpoint, strings.NewReader(body)))
		req.Header.Set("Authorization", "Bearer "+apiKey)
		resp := must(http.DefaultClient.Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body))), resp.Header
	}
	for range 2 { // what was reserved is released
		for _, endpoint := range []string{"chat/completions", "responses", "embeddings", "completions"} {
			if status, body, _ := ask(endpoint, 100_000); status < 500 || !strings.Contains(body, `"upstream_`) {
				t.Errorf("%s of what fits: %d %s, want what comes of an upstream that is not there", endpoint, status, body)
			}
			if status, body, h := ask(endpoint, 150_000); status != http.StatusServiceUnavailable || !strings.Contains(body, `"memory_short"`) || h.Get("Retry-After") == "" {
				t.Errorf("%s of what does not: %d %s %v", endpoint, status, body, h)
			}
		}
	}
	used.Store(testLimit * 9 / 10)
	eventually(t, "the governor sheds", func() bool { return governor.Check() == memory.Shed })
	if status, body, _ := ask("chat/completions", 100_000); status != http.StatusServiceUnavailable || !strings.Contains(body, `"memory_short"`) {
		t.Errorf("while memory is short: %d %s", status, body)
	}
	eventually(t, "all is released", func() bool { return governor.Stats().Reserved == 0 })
}

// While memory is short small requests get through, and large questions and answers are put off.
func TestMemoryIsShort(t *testing.T) {
	t.Parallel()
	var used atomic.Uint64
	governor := newTestGovernor(&used)
	c := newCluster(t, func(cfg *handlers.Config) { cfg.Memory = governor })
	post := func(method, body string) (int, http.Header) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, c.servers[0].URL+"/api/"+method, strings.NewReader(body)))
		req.Header.Set("X-API-Key", apiKey)
		resp := must(http.DefaultClient.Do(req)) //nolint:bodyclose // it is closed below
		resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	publish := func(size int) (int, http.Header) {
		return post("publish", `{"channel":"a","data":"`+strings.Repeat("x", size)+`"}`)
	}
	expect := func(what string, want int) func(int, http.Header) {
		return func(got int, h http.Header) {
			t.Helper()
			if got != want || want == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
				t.Errorf("%s: %d, Retry-After %q", what, got, h.Get("Retry-After"))
			}
		}
	}
	for range 3 { // what was reserved is released
		expect("what fits", 200)(publish(100_000))
		expect("what does not", 503)(publish(150_000))
	}
	expect("history", 200)(post("history", `{"channel":"a","limit":1}`))
	used.Store(testLimit * 9 / 10)
	eventually(t, "the governor sheds", func() bool { return governor.Check() == memory.Shed })
	expect("a small publish", 200)(publish(1000))
	expect("a large publish", 503)(publish(100_000))
	expect("history, while short", 503)(post("history", `{"channel":"a","limit":1}`))
	if s := governor.Stats(); s.Reserved != 0 {
		t.Errorf("%d bytes are reserved for nobody", s.Reserved)
	}
}

// The resources are weighed and put off, too, and say so as they say everything.
func TestResourcesWhileMemoryIsShort(t *testing.T) {
	t.Parallel()
	var used atomic.Uint64
	governor := newTestGovernor(&used)
	m := newMatrix(t, func(cfg *handlers.Config) { cfg.Memory = governor })
	ask := func(method, path, body string) (int, string, http.Header) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), method, m.server.URL+path, strings.NewReader(body)))
		req.Header.Set("Authorization", "Bearer "+apiKey)
		req.Header.Set("Content-Type", "application/json")
		resp := must(m.server.Client().Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body))), resp.Header
	}
	later := func(method, path, body string) {
		t.Helper()
		status, got, h := ask(method, path, body)
		if status != http.StatusServiceUnavailable || !strings.Contains(got, `"code":"memory_short"`) || h.Get("Retry-After") == "" || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s %v", method, path, status, got, h)
		}
	}
	prompt := func(size int) string { return `{"name":"p","template":"` + strings.Repeat("x", size) + `"}` }
	for range 2 { // what was reserved is released
		later("POST", "/v1/prompts", prompt(150_000))
	}
	if status, body, _ := ask("GET", "/v1/runs/export", ""); status != http.StatusOK {
		t.Errorf("an export, while there is memory: %d %s", status, body)
	}
	used.Store(testLimit * 9 / 10)
	eventually(t, "the governor sheds", func() bool { return governor.Check() == memory.Shed })
	for _, path := range []string{"/v1/runs/export", "/v1/datasets/ds_a/cases", "/v1/evaluations/ev_a/results"} {
		later("GET", path, "")
	}
	later("POST", "/v1/datasets/ds_a/cases", "{}\n")
	later("POST", "/v1/prompts", prompt(100_000))
	if status, body, _ := ask("POST", "/v1/prompts", prompt(100)); status != http.StatusCreated {
		t.Errorf("a small prompt: %d %s", status, body)
	}
	if status, body, _ := ask("GET", "/v1/prompts", ""); status != http.StatusOK {
		t.Errorf("a page: %d %s", status, body)
	}
	if s := governor.Stats(); s.Reserved != 0 {
		t.Errorf("%d bytes are reserved for nobody", s.Reserved)
	}
}

// While every connection to the database is taken, each resource says that it may go well later, and is there again.
func TestResourcesWithoutAConnection(t *testing.T) {
	t.Parallel()
	var pool *pgxpool.Pool
	m := newMatrix(t, func(cfg *handlers.Config) {
		pool = must(db.NewPool(context.Background(), db.PoolConfig{URL: cfg.Pools["requests"].Config().ConnString(), MaxConns: 1, AcquireTimeout: 50 * time.Millisecond}))
		t.Cleanup(pool.Close)
		cfg.Gate = must(access.New(access.Config{Pool: pool, Logger: cfg.Logger, ServerKey: apiKey, Retention: 24 * time.Hour, Flush: time.Second}))
		values := must(cache.New(cache.Config{LocalBytes: 1 << 20, Log: cfg.Logger}))
		cfg.Resources = must(resources.New(resources.Config{Pool: pool, Cache: values, Queue: must(db.NewQueue(pool, cfg.Logger)), Logger: cfg.Logger}))
	})
	ask := func(key, method, path, body string) (int, string, http.Header) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), method, m.server.URL+path, strings.NewReader(body)))
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp := must(m.server.Client().Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body))), resp.Header
	}
	var taken *pgxpool.Conn
	eventually(t, "the one connection", func() (ok bool) { // which takes longer to open than to wait for, on a busy machine
		var err error
		taken, err = pool.Acquire(t.Context())
		return err == nil
	})
	for _, r := range [][4]string{
		{apiKey, "GET", "/v1/prompts", ""}, {apiKey, "POST", "/v1/prompts", `{"name":"p","template":"x"}`}, {apiKey, "GET", "/v1/runs", ""},
		{apiKey, "GET", "/v1/runs/export", ""}, {apiKey, "GET", "/v1/usage", ""}, {m.credentials["key"], "GET", "/v1/prompts", ""},
	} {
		status, body, h := ask(r[0], r[1], r[2], r[3])
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"service_unavailable"`) || h.Get("Retry-After") == "" ||
			h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s %v", r[1], r[2], status, body, h)
		}
	}
	taken.Release()
	eventually(t, "it is there again", func() bool {
		status, _, _ := ask(m.credentials["key"], "GET", "/v1/prompts", "")
		return status == http.StatusOK
	})
}
