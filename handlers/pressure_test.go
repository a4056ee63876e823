package handlers_test

import (
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"forgewire/handlers"
	"forgewire/infra/memory"
)

// While memory is short small requests get through, and large questions and answers are put off.
func TestMemoryIsShort(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20 // of which a quarter may be reserved, and each byte of a body counts four times
	var used atomic.Uint64
	governor := must(memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler),
		Limit: func() (uint64, error) { return limit, nil }, Used: func() (uint64, error) { return used.Load(), nil }}))
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
	used.Store(limit * 9 / 10)
	eventually(t, "the governor sheds", func() bool { return governor.Check() == memory.Shed })
	expect("a small publish", 200)(publish(1000))
	expect("a large publish", 503)(publish(100_000))
	expect("history, while short", 503)(post("history", `{"channel":"a","limit":1}`))
	if s := governor.Stats(); s.Reserved != 0 {
		t.Errorf("%d bytes are reserved for nobody", s.Reserved)
	}
}
