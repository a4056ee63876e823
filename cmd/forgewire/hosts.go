package main

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strings"
)

// hosts are the names that `forgewire dev` answers to. A page anywhere can have its own name point to 127.0.0.1, and
// then reads what it likes from here as its own (DNS rebinding): the keys, too. Only the Host header shows it.
// nil answers to every name.
type hosts struct {
	names    map[string]bool
	patterns []string // of FORGEWIRE_ALLOWED_ORIGINS
}

// ownHosts answers to this machine's names, and to what the developer allowed.
func ownHosts(allowed []string) *hosts {
	h := &hosts{names: map[string]bool{"localhost": true}, patterns: allowed}
	if name, err := os.Hostname(); err == nil && name != "" {
		short, _, _ := strings.Cut(strings.ToLower(name), ".")
		h.names[strings.ToLower(name)], h.names[short], h.names[short+".local"] = true, true, true
	}
	return h
}

// guard answers requests for any other name with 421.
func (h *hosts) guard(next http.Handler) http.Handler {
	if h == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.answersTo(r.Host) {
			http.Error(w, "forgewire dev answers to this machine's own names only: list the host in FORGEWIRE_ALLOWED_ORIGINS", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *hosts) answersTo(host string) bool {
	host = strings.ToLower(host)
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	name = strings.Trim(strings.TrimSuffix(name, "."), "[]")
	if address, err := netip.ParseAddr(name); err == nil && address.Unmap().IsLoopback() || h.names[name] {
		return true
	}
	for _, p := range h.patterns {
		for _, as := range []string{host, name} { // a pattern may name a port
			if ok, err := path.Match(strings.ToLower(p), as); ok && err == nil {
				return true
			}
		}
	}
	return false
}
