package handlers

import (
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"forgewire/realtime"
)

// events serves a channel as plain server-sent events.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	channel, err := channelOf(r)
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("the channel's name in the path is not encoded properly"))
		return
	}
	s.node.ServeEvents(w, r, channel)
}

// channelOf returns the channel in the path, where a slash in its name is written %2F. chi matches the path as
// it came if there is such a thing in it, and else the decoded one.
func channelOf(r *http.Request) (string, error) {
	channel := chi.URLParam(r, "channel")
	if r.URL.RawPath == "" {
		return channel, nil
	}
	return url.PathUnescape(channel)
}
