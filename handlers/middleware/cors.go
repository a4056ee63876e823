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
			"If-None-Match", "Last-Event-ID", "Forgewire-Cache-Class", "Forgewire-Cache-Tags"},
		ExposedHeaders: []string{"ETag", "Location", "Retry-After", "X-Request-Id", "Idempotency-Replayed", "Age", "Cache-Status", "Forgewire-Id"},
		MaxAge:         corsAge,
	})
}

// Preflight answers what a browser asks of a path of /v1 before it asks, but for channels, which have their own answer.
// It is no route, or each path that does not exist would be one that takes OPTIONS alone.
func Preflight(allowed func(r *http.Request, origin string) bool) func(http.Handler) http.Handler {
	answer := CORS(allowed)(http.NotFoundHandler())
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions && strings.HasPrefix(r.URL.Path, "/v1/") && !strings.HasPrefix(r.URL.Path, "/v1/channels/") {
				answer.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
