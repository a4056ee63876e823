package middleware

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httprate"

	"forgewire/handlers/problem"
)

var errNoAddress = errors.New("the request has no address")

// Rate lets one address (of IPv6, a /64) ask so many times a minute, 0 for no limit: of all replicas if there are shared
// rates, or of this one alone. It stands in front of the keys, so it also bounds how fast somebody can guess them.
func Rate(perMinute int, shared *Rates) func(http.Handler) http.Handler {
	if perMinute == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	options := []httprate.Option{httprate.WithLimitHandler(func(w http.ResponseWriter, _ *http.Request) {
		problem.New(http.StatusTooManyRequests, "too_many_requests", "this address asks too often").Write(w)
	})}
	if shared != nil {
		options = append(options, httprate.WithLimitCounter(shared))
	}
	return httprate.LimitBy(perMinute, time.Minute, func(r *http.Request) (string, error) {
		if ip := middleware.GetClientIP(r.Context()); ip != "" { // from the configured header
			return httprate.CanonicalizeIP(ip), nil
		}
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			return "", errNoAddress
		}
		return httprate.CanonicalizeIP(host), nil
	}, options...)
}
