package handlers

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-chi/chi/v5/middleware"
)

// The client's address is what the trusted header says, never what the client itself can say.
func TestClientIP(t *testing.T) {
	for _, c := range []struct {
		name, trusted string
		headers       [][2]string
		want          string
	}{
		{"the platform's header", "Fly-Client-IP", [][2]string{{"Fly-Client-IP", "192.0.2.1"}, {"X-Forwarded-For", "192.0.2.9"}}, "192.0.2.1"},
		{"another header", "Fly-Client-IP", [][2]string{{"X-Forwarded-For", "192.0.2.9"}, {"X-Real-IP", "192.0.2.8"}}, ""},
		{"garbage", "Fly-Client-IP", [][2]string{{"Fly-Client-IP", "a, b"}}, ""},
		{"sent twice", "fly-client-ip", [][2]string{{"Fly-Client-IP", "192.0.2.66"}, {"Fly-Client-IP", "192.0.2.1"}}, "192.0.2.1"},
		{"a list that the client began", "x-forwarded-for", [][2]string{{"X-Forwarded-For", "192.0.2.66, 192.0.2.1"}}, "192.0.2.1"},
		{"a list in two parts", "X-Forwarded-For", [][2]string{{"X-Forwarded-For", "192.0.2.66"}, {"X-Forwarded-For", "2001:db8::1"}}, "2001:db8::1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/connection/websocket", nil)
		for _, h := range c.headers {
			r.Header.Add(h[0], h[1])
		}
		var got string
		clientIP(c.trusted)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = middleware.GetClientIP(r.Context()) })).
			ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
