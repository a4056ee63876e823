package middleware

import "net/http"

// Nobody changes these: whoever sets a header again puts another slice in its place.
var (
	noSniff  = []string{"nosniff"}
	noPage   = []string{"default-src 'none'; frame-ancestors 'none'"}
	sameSite = []string{"same-site"}
)

// Security tells browsers that an answer is data: not to be guessed at, framed, or run. It sets no more than that: a
// ninth header of an answer costs as much as the first four, and nothing here is a page that could send a Referer.
func Security(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Content-Type-Options"], h["Content-Security-Policy"], h["Cross-Origin-Resource-Policy"] = noSniff, noPage, sameSite
		next.ServeHTTP(w, r)
	})
}
