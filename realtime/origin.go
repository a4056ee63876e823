package realtime

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// admitOrigin lets a request through that a page of this host or of an allowed one sent, or that no browser
// did, and answers any other with 403. What it lets through, the page may read (CORS). No credentials are
// allowed: a cookie means nothing here.
func (n *Node) admitOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	w.Header().Add("Vary", "Origin")
	if origin == "" {
		// A page elsewhere can make a browser GET a stream without one, by an image or a link, with the cookies that the
		// hooks may be sent; and commands may come in the query. Browsers say so here.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			refuse(w, http.StatusForbidden, ErrPermissionDenied.With("the page's origin is not known"))
			return false
		}
		return true
	}
	if !originAllowed(origin, r.Host, n.cfg.AllowedOrigins) {
		refuse(w, http.StatusForbidden, ErrPermissionDenied.With("the page's origin is not allowed"))
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	return true
}

// originAllowed judges as coder/websocket does for a handshake: the request's own host, or a pattern.
func originAllowed(origin, host string, patterns []string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, host) {
		return true
	}
	for _, p := range patterns {
		if ok, err := path.Match(strings.ToLower(p), strings.ToLower(u.Host)); ok && err == nil {
			return true
		}
	}
	return false
}

// AllowsOrigin says whether a page of the origin may call this host.
func (n *Node) AllowsOrigin(r *http.Request, origin string) bool {
	return originAllowed(origin, r.Host, n.cfg.AllowedOrigins)
}

// ServePreflight answers a browser that asks whether a page may send a request to a stream's routes.
func (n *Node) ServePreflight(w http.ResponseWriter, r *http.Request) {
	if !n.admitOrigin(w, r) {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID")
	h.Set("Access-Control-Max-Age", "300")
	w.WriteHeader(http.StatusNoContent)
}
