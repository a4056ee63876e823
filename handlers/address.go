package handlers

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/go-chi/chi/v5/middleware"
)

// privatePeers are where a proxy connects from unless the operator says where his does. Platforms' own do: Fly.io's from
// 172.16.0.0/12 and fdaa::/16, Cloud Run's from 169.254.0.0/16, others' from 100.64.0.0/10. Nobody on the internet has
// one of these.
var privatePeers = []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
	"::1/128", "fc00::/7", "fe80::/10"}

// clientIP takes the client's address, for all limits that count by it, from the header that the operator names, if the
// peer is a proxy: anybody else could write there what he likes, and his own address counts. Where the header has no
// valid address, the peer's counts too.
//
// X-Forwarded-For is a list that the client may begin. Where the operator lists all of his proxies, the last address
// that is none of them is the client's. Where he does not, what the last proxy added counts, and nothing before it: a
// client in a private network must not be taken for one more proxy, whose word on who is behind it counts.
func clientIP(header string, proxies []string) func(http.Handler) http.Handler {
	listed := len(proxies) > 0
	if !listed {
		proxies = privatePeers
	}
	switch {
	case http.CanonicalHeaderKey(header) != "X-Forwarded-For":
		return middleware.ClientIPFromHeader(header, proxies...)
	case listed:
		return middleware.ClientIPFromXFF(proxies...)
	}
	return fromPrivatePeers(middleware.ClientIPFromXFFTrustedProxies(1))
}

// fromPrivatePeers leaves the requests of all other peers to themselves.
func fromPrivatePeers(trusting func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	var prefixes []netip.Prefix
	for _, p := range privatePeers {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	return func(next http.Handler) http.Handler {
		trusted := trusting(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			at, _ := netip.ParseAddrPort(r.RemoteAddr) // nobody trusts an address that there is not
			peer := at.Addr().Unmap().WithZone("")
			if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(peer) }) {
				trusted.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
