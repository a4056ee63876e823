package demo_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"forgewire/handlers/demo"
)

var lines = demo.Config{PSQL: `psql "x" -c '</script>'`, Curl: "curl y", Key: "k", Model: "a model that imitates"}

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	demo.Handler(lines).ServeHTTP(w, r)
	return w
}

// Every file that the page names is there, with a type that the browser accepts under nosniff.
func TestPageIsComplete(t *testing.T) {
	page := get(t, "/").Body.String()
	types := map[string]string{".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
	files := []string{"/demo/pane.js", "/demo/pad.js", "/demo/prompt.js", "/demo/answer.js", "/demo/stream.js"} // imported by app.js and pane.js
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		files = append(files, m[1])
	}
	if len(files) < 5 {
		t.Fatalf("the page names only %v", files)
	}
	for _, f := range files {
		w := get(t, f)
		want := types[f[strings.LastIndex(f, "."):]]
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || want == "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %d, %q, want 200 and %q", f, w.Code, got, want)
		}
	}
	if w := get(t, "/demo/centrifuge-5.8.0.LICENSE.txt"); w.Code != http.StatusOK {
		t.Errorf("the client's licence: %d", w.Code)
	}
}

// What the policy forbids would silently not work.
func TestPageObeysItsPolicy(t *testing.T) {
	w := get(t, "/")
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'self';") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy: %q", policy)
	}
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script>|<script [^>]*>[^<]|https?://`)
	if found := inline.FindString(w.Body.String()); found != "" {
		t.Errorf("the page has %q", found)
	}
}

func TestConfig(t *testing.T) {
	w := get(t, "/demo/config.json")
	var got demo.Config
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got != lines {
		t.Errorf("got %+v, %v", got, err)
	}
	if c := w.Header().Get("Cache-Control"); c != "no-store" {
		t.Errorf("Cache-Control %q: the API key must not be stored", c)
	}
}

func TestUnchangedFileIsNotSentAgain(t *testing.T) {
	tag := get(t, "/demo/app.js").Header().Get("ETag")
	if w := get(t, "/demo/app.js", "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("%d with %d bytes, want 304", w.Code, w.Body.Len())
	}
}

func TestNothingElse(t *testing.T) {
	for _, path := range []string{"/x", "/demo/", "/demo/demo.go", "/demo/x.js"} {
		if w := get(t, path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, w.Code)
		}
	}
}
