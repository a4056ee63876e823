package handlers

import "net/http"

type healthBody struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Logs says what is wrong with each of several logs that cannot be reached, by its place: only their channels stand still.
	Logs map[int]string `json:"logs,omitempty"`
}

// live says that the process runs. A platform that sees it fail restarts the process, so it asks nobody.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	s.write(w, r, http.StatusOK, healthBody{Status: "ok"})
}

// ready says whether this replica can serve: a notification that was sent through the pool came back. Of several logs it
// is the first that counts, as everything else is there; a balancer that took away all replicas for want of another one
// would stop the channels that work.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.node.Ready(r.Context()); err != nil {
		s.write(w, r, http.StatusServiceUnavailable, healthBody{Status: "unavailable", Reason: err.Error()})
		return
	}
	if away := s.node.LogsAway(r.Context()); len(away) > 0 {
		s.write(w, r, http.StatusOK, healthBody{Status: "degraded", Logs: away})
		return
	}
	s.write(w, r, http.StatusOK, healthBody{Status: "ok"})
}
