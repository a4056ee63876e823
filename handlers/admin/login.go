package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"forgewire/realtime"
)

// Attempts to log in that one replica takes: some at once, and then one from time to time.
const (
	attemptsOfOne     = 5 // of one address (of IPv6, a /64)
	attemptsOfAll     = 30
	oneMoreOfOne      = 12 * time.Second
	oneMoreOfAll      = 2 * time.Second
	addressesKnown    = 10_000 // the one that was not seen for longest is forgotten: those of all still count
	maxLogin          = 4 << 10
	revocationTimeout = 5 * time.Second
)

// attempts limits how often passwords may be tried.
type attempts struct {
	mu  sync.Mutex
	all *rate.Limiter
	one *lru.Cache[netip.Prefix, *rate.Limiter]
}

func newAttempts() *attempts {
	one, err := lru.New[netip.Prefix, *rate.Limiter](addressesKnown)
	if err != nil {
		panic("admin: " + err.Error()) // it refuses a size of 0 alone
	}
	return &attempts{all: rate.NewLimiter(rate.Every(oneMoreOfAll), attemptsOfAll), one: one}
}

// allow takes one attempt. An address that has none left takes none of the others'.
func (a *attempts) allow(from netip.Prefix, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, known := a.one.Get(from)
	if !known {
		l = rate.NewLimiter(rate.Every(oneMoreOfOne), attemptsOfOne)
		a.one.Add(from, l)
	}
	return l.AllowN(now, 1) && a.all.AllowN(now, 1)
}

// postLogin compares the password. Hashes of equal length are compared, in constant time.
func (a *Admin) postLogin(w http.ResponseWriter, r *http.Request) {
	from := realtime.AddressOf(r)
	if !a.attempts.allow(from, time.Now()) {
		a.tooMany(w, r, from)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	given := sha256.Sum256([]byte(r.PostFormValue("password")))
	if subtle.ConstantTimeCompare(given[:], a.password[:]) != 1 {
		a.cfg.Logger.WarnContext(r.Context(), "a wrong password for the dashboard", "address", from.Addr().String())
		a.showLogin(w, http.StatusUnauthorized, "That is not the password.")
		return
	}
	s := a.sessions.new(time.Now())
	a.cfg.Logger.InfoContext(r.Context(), "somebody logged in to the dashboard", "address", from.Addr().String())
	setCookie(w, isSecure(r), a.sessions.sign(s), sessionAge)
	http.Redirect(w, r, Path, http.StatusSeeOther)
}

// postLogout ends the session on every replica, with its connections.
func (a *Admin) postLogout(w http.ResponseWriter, r *http.Request) {
	if s, ok := a.session(r); ok {
		defer a.cfg.Node.Use(r.Context())()
		ctx, cancel := context.WithTimeout(r.Context(), revocationTimeout)
		defer cancel()
		// A little later than now: another replica's clock may have been ahead when it signed a token.
		if err := a.cfg.Node.Revoke(ctx, s.user(), time.Now().Add(clockLeeway)); err != nil {
			// The browser keeps its cookie, so that it can be tried again.
			a.cfg.Logger.WarnContext(r.Context(), "a session of the dashboard could not be ended", "error", err)
			http.Error(w, "The session could not be ended: the database does not answer. Go back and try again.", http.StatusServiceUnavailable)
			return
		}
	}
	for _, secure := range []bool{false, true} {
		setCookie(w, secure, "", 0)
	}
	http.Redirect(w, r, Path, http.StatusSeeOther)
}

func (a *Admin) tooMany(w http.ResponseWriter, r *http.Request, from netip.Prefix) {
	a.cfg.Logger.WarnContext(r.Context(), "an attempt to log in to the dashboard was refused: too many", "address", from.Addr().String())
	w.Header().Set("Retry-After", strconv.Itoa(int(oneMoreOfOne.Seconds())))
	a.showLogin(w, http.StatusTooManyRequests, "Too many attempts. Wait a little, then try again.")
}

// The parts of the login page, each of which has its place there.
//
//nolint:gosec // no password is in it
const (
	passwordForm = `<form method="post" action="/admin/login">
      <input type="text" name="username" value="admin" autocomplete="username" hidden>
      <label for="password">Password of the dashboard</label>
      <input id="password" name="password" type="password" autocomplete="current-password" required autofocus%s>
      <button type="submit">Log in</button>
    </form>`
	invalidInput = ` aria-describedby="problem" aria-invalid="true"`
	oidcLink     = `<p><a class="button" href="/admin/login/oidc">Log in with your identity provider</a></p>`
	problemNote  = `<p class="problem" id="problem" role="alert">%s</p>`
)

// showLogin shows the ways to log in, and what went wrong, "" for nothing.
func (a *Admin) showLogin(w http.ResponseWriter, status int, problem string) {
	var parts strings.Builder
	if a.cfg.Password != "" {
		invalid := ""
		if problem != "" {
			invalid = invalidInput
		}
		fmt.Fprintf(&parts, passwordForm, invalid)
	}
	if a.provider != nil {
		parts.WriteString(oidcLink)
	}
	if problem != "" {
		fmt.Fprintf(&parts, problemNote, html.EscapeString(problem))
	}
	a.html(w, status, strings.Replace(loginPage, "<!-- ways -->", parts.String(), 1))
}

func (a *Admin) html(w http.ResponseWriter, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // a browser that left needs no answer
}
