package handlers

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/go-chi/chi/v5"
)

// A channel's name comes out of the path as it is, whatever is in it.
func TestChannelInPath(t *testing.T) {
	for _, channel := range []string{"a", "chat:1", "a/b", "a%2Fb", "a b", "user#42,43", "$x", "50%", "a?b", "ü"} {
		var got string
		r := chi.NewRouter()
		r.Get("/v1/channels/{channel}/events", func(_ http.ResponseWriter, r *http.Request) { got, _ = channelOf(r) })
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/channels/"+url.PathEscape(channel)+"/events", nil))
		if got != channel {
			t.Errorf("%q became %q", channel, got)
		}
	}
}
