package handlers

import "net/http"

type healthBody struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// live says that the process runs. A platform that sees it fail restarts the process, so it asks nobody.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	s.write(w, r, http.StatusOK, healthBody{Status: "ok"})
}

// ready says whether this replica can serve: a notification that was sent through the pool came back.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.node.Ready(r.Context()); err != nil {
		s.write(w, r, http.StatusServiceUnavailable, healthBody{Status: "unavailable", Reason: err.Error()})
		return
	}
	s.write(w, r, http.StatusOK, healthBody{Status: "ok"})
}
