package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"forgewire/infra/config"
)

// A name that a stranger made to point here (DNS rebinding) gets no answer, and neither do names that only look like ours.
func TestDevAnswersToItsOwnNames(t *testing.T) {
	t.Parallel()
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	handler := ownHosts([]string{"app.example.com", "*.preview.test", "tunnel.test:8443"}).guard(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the keys") }))
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "LocalHost.:8080": 200, "127.0.0.1:8080": 200, "127.0.0.53": 200, "[::1]:8080": 200, "[::1]": 200,
		own: 200, own + ":8080": 200,
		"app.example.com": 200, "app.example.com:8080": 200, "a.preview.test:1": 200, "tunnel.test:8443": 200,
		"evil.test": 421, "evil.test:8080": 421, "localhost.evil.test": 421, "127.0.0.1.evil.test:8080": 421, "evil.test:127.0.0.1": 421,
		"10.0.0.1:8080": 421, "[2001:db8::1]:8080": 421, "": 421, "tunnel.test": 421, "preview.test": 421, "evil.test/localhost": 421,
		"localhost@evil.test": 421, "evil.test#localhost": 421,
	} {
		r := httptest.NewRequest("GET", "/demo/config.json", nil)
		r.Host = host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want || (want == 421) == (w.Body.String() == "the keys") {
			t.Errorf("%q: %d %s, want %d", host, w.Code, w.Body, want)
		}
	}
}

// The replicas of `dev` listen on ports of their own, which a page may try, too; one of `serve` answers to every name.
func TestReplicasOfDevAnswerToTheirOwnNames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		hosts *hosts
		host  string
		want  int
	}{{ownHosts(nil), "localhost", 200}, {ownHosts(nil), "evil.test", 421}, {nil, "evil.test", 200}} {
		a := newTestApp(t, test.hosts)
		r := httptest.NewRequest("GET", "/livez", nil)
		r.Host = test.host
		w := httptest.NewRecorder()
		a.server.Handler.ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s: %d, want %d", test.host, w.Code, test.want)
		}
	}
}

// newTestApp makes a replica that runs nothing.
func newTestApp(t *testing.T, hosts *hosts) *app {
	t.Helper()
	cfg, err := config.Load([]string{"DATABASE_URL=postgres://127.0.0.1:1/none", "FORGEWIRE_API_KEY=0123456789abcdef", "FORGEWIRE_TOKEN_SECRET=0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(appConfig{Config: cfg, Logger: slog.New(slog.DiscardHandler), Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.base.close)
	return a
}
