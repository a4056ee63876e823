package handlers

import (
	"net/http"

	"forgewire/cache"
)

type healthBody struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Logs says what is wrong with each of several logs that cannot be reached, by its place: only their channels stand still.
	Logs map[int]string `json:"logs,omitempty"`
	// Cache is unavailable while Valkey cannot be reached: every look-up is a miss, and all else goes on.
	Cache cache.State `json:"cache,omitempty"`
}

// live says that the process runs. A platform that sees it fail restarts the process, so it asks nobody.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	s.write(w, r, http.StatusOK, healthBody{Status: "ok"})
}

// ready says whether this replica can serve: a notification that was sent through the pool came back. Of several logs it
// is the first that counts, as everything else is there; a balancer that took away all replicas for want of another one
// would stop the channels that work. A cache that is away is told for the same reason, and takes nobody away.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.node.Ready(r.Context()); err != nil {
		s.write(w, r, http.StatusServiceUnavailable, healthBody{Status: "unavailable", Reason: err.Error()})
		return
	}
	body := healthBody{Status: "ok", Logs: s.node.LogsAway(r.Context())}
	if s.cache != nil && s.cache.State() == cache.StateUnavailable {
		body.Cache = cache.StateUnavailable
	}
	if len(body.Logs) > 0 || body.Cache != "" {
		body.Status = "degraded"
	}
	s.write(w, r, http.StatusOK, body)
}
