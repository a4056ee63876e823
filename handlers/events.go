package handlers

import (
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"forgewire/realtime"
)

// events serves a channel as plain server-sent events. A slash in a channel's name is written %2F.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	channel := chi.URLParam(r, "channel")
	if r.URL.RawPath != "" { // else chi saw the decoded path
		var err error
		if channel, err = url.PathUnescape(channel); err != nil {
			s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("the channel's name in the path is not encoded properly"))
			return
		}
	}
	s.node.ServeEvents(w, r, channel)
}
