package handlers

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"forgewire/cache/llm"
	"forgewire/handlers/access"
)

// models adds the endpoints that OpenAI's SDKs know, and those of their cache. What asks a model counts against the
// key's limits.
func models(r chi.Router, s *llm.Service, gate *access.Gate) {
	for _, path := range []string{"chat/completions", "responses", "embeddings", "completions"} {
		r.With(gate.Limit).Post("/v1/"+path, s.Handler(path))
	}
	r.Get("/v1/responses/{id}", func(w http.ResponseWriter, r *http.Request) { s.Resume(w, r, chi.URLParam(r, "id")) })
	r.Get("/v1/models", s.ServeModels)
	r.Get("/v1/cache/stats", s.ServeStats)
	r.Post("/v1/cache/purge", s.ServePurge)
}
