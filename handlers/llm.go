package handlers

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"forgewire/cache/llm"
	"forgewire/handlers/access"
)

// models adds the endpoints that OpenAI's SDKs know, and those of their cache. What asks a model counts against the
// key's limits, and for as long as it is answered its body counts as memory in use.
func (s *server) models(r chi.Router, models *llm.Service, gate *access.Gate) {
	for _, path := range []string{"chat/completions", "responses", "embeddings", "completions"} {
		r.With(gate.Limit, s.weigh).Post("/v1/"+path, models.Handler(path))
	}
	r.Get("/v1/responses/{id}", func(w http.ResponseWriter, r *http.Request) { models.Resume(w, r, chi.URLParam(r, "id")) })
	r.Get("/v1/models", models.ServeModels)
	r.Get("/v1/cache/stats", models.ServeStats)
	r.Post("/v1/cache/purge", models.ServePurge)
}
