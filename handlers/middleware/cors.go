package middleware

import (
	"net/http"
	"strings"

	"github.com/go-chi/cors"
)

// corsAge is how long a browser remembers what it was told, in seconds.
const corsAge = 300

// CORS lets pages of the origins that allowed says yes to call the routes, and read what they need of the answers. No
// credentials are allowed: a cookie means nothing here.
func CORS(allowed func(r *http.Request, origin string) bool) func(http.Handler) http.Handler {
	return cors.Handler(cors.Options{
		AllowOriginFunc: allowed,
		AllowedMethods:  []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Accept", "Authorization", "Forgewire-Key", "Content-Type", "Content-Encoding", "Cache-Control", "Idempotency-Key", "If-Match",
			"If-None-Match", "Last-Event-ID", "Forgewire-Cache-Class", "Forgewire-Cache-Tags", "Forgewire-Log-Bodies"},
		ExposedHeaders: []string{"ETag", "Location", "Retry-After", "X-Request-Id", "Idempotency-Replayed", "Age", "Cache-Status", "Forgewire-Id"},
		MaxAge:         corsAge,
	})
}

// Preflight answers what a browser asks before it calls a route below prefix from another origin's page. It stands before
// the router, which would have to know that question for each route; routes that answer it themselves, as channels do, are
// left to.
func Preflight(prefix string, allowed func(r *http.Request, origin string) bool) func(http.Handler) http.Handler {
	answer := CORS(allowed)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions && strings.HasPrefix(r.URL.Path, prefix) && !strings.HasPrefix(r.URL.Path, prefix+"channels/") {
				answer.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
