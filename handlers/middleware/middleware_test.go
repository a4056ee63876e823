package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"forgewire/handlers/middleware"
)

func TestRate(t *testing.T) {
	t.Parallel()
	h := middleware.Rate(3, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func(address string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = address
		r.Header.Set("X-Forwarded-For", "10.0.0.1") // which anybody may send
		h.ServeHTTP(w, r)
		return w
	}
	for range 3 {
		if w := get("[2001:db8::1]:1"); w.Code != http.StatusOK {
			t.Errorf("%d", w.Code)
		}
	}
	w := get("[2001:db8::2]:1") // the same /64
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), `"code":"too_many_requests"`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w = get("192.0.2.1:1"); w.Code != http.StatusOK {
		t.Errorf("another address: %d", w.Code)
	}
}

func TestCompressLeavesEventsAlone(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{"text/event-stream": "", "application/json": "zstd"} {
		h := middleware.Compress()(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(strings.Repeat("data ", 100)))
		}))
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", "gzip, br, zstd")
		h.ServeHTTP(w, r)
		if got := w.Header().Get("Content-Encoding"); got != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}
