package admin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"forgewire/realtime"
)

const (
	// CallbackPath is where the identity provider sends browsers back to.
	CallbackPath = Path + "/login/callback"

	errandAge    = 10 * time.Minute // from here to the provider and back
	errandCookie = "forgewire-admin-oidc"

	providerTimeout = 5 * time.Second
	maxProviderBody = 1 << 20 // bytes of one of its answers
)

// OIDC says who may log in by an identity provider.
type OIDC struct {
	Issuer       string // its URL, as it names itself
	ClientID     string
	ClientSecret string
	RedirectURL  string   // of the dashboard's CallbackPath, as browsers reach it
	Allowed      []string // addresses of e-mail that the provider has verified, * for any text; or a user's sub
	// Transport replaces the usual one in tests; nil for that.
	Transport http.RoundTripper
}

// provider is the identity provider: asked for what it offers when somebody first needs it.
type provider struct {
	cfg    OIDC
	client *http.Client

	mu    sync.Mutex
	known *oidc.Provider // guarded by mu; nil until it has answered
}

func newProvider(cfg OIDC) *provider {
	transport := cfg.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &provider{cfg: cfg, client: &http.Client{Timeout: providerTimeout, Transport: bounded{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// bounded cuts answers that are too long.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err //nolint:wrapcheck // http.Client says what was asked
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxProviderBody), resp.Body}
	return resp, nil
}

// discover asks the provider what it offers, once.
func (p *provider) discover(ctx context.Context) (*oidc.Provider, *oauth2.Config, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		// Its keys are read again later, beyond any request: each reading has the client's own time.
		known, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.client), p.cfg.Issuer)
		if err != nil {
			return nil, nil, fmt.Errorf("ask %s what it offers (FORGEWIRE_ADMIN_OIDC_ISSUER): %w", p.cfg.Issuer, err)
		}
		p.known = known
	}
	return p.known, &oauth2.Config{ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, RedirectURL: p.cfg.RedirectURL,
		Endpoint: p.known.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "email"}}, nil
}

// An errand is what a browser is sent to the provider with, and must bring back: nobody else's answer is taken, and no
// answer twice.
type errand struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE
	Expires  int64  `json:"e"` // seconds since 1970
}

func (s sessions) signErrand(e errand) (string, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("encode a login: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(b, s.errandMAC(b)...)), nil
}

func (s sessions) errandMAC(b []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte("errand\n"))
	h.Write(b)
	return h.Sum(nil)
}

func (s sessions) parseErrand(value string, now time.Time) (e errand, err error) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) <= sha256.Size {
		return e, errSession
	}
	body := b[:len(b)-sha256.Size]
	if !hmac.Equal(b[len(body):], s.errandMAC(body)) || json.Unmarshal(body, &e) != nil || now.Unix() >= e.Expires {
		return errand{}, errSession
	}
	return e, nil
}

// startOIDC sends the browser to the provider.
func (a *Admin) startOIDC(w http.ResponseWriter, r *http.Request) {
	from := realtime.AddressOf(r)
	if !a.attempts.allow(from, time.Now()) {
		a.tooMany(w, r, from)
		return
	}
	_, client, err := a.provider.discover(r.Context())
	if err != nil {
		a.cfg.Logger.WarnContext(r.Context(), "the identity provider of the dashboard does not answer", "error", err)
		a.showLogin(w, http.StatusServiceUnavailable, "The identity provider does not answer. The log says why.")
		return
	}
	e := errand{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Expires: time.Now().Add(errandAge).Unix()}
	value, err := a.sessions.signErrand(e)
	if err != nil {
		a.failed(w, r, err)
		return
	}
	setErrand(w, isSecure(r), value, errandAge)
	http.Redirect(w, r, client.AuthCodeURL(e.State, oidc.Nonce(e.Nonce), oauth2.S256ChallengeOption(e.Verifier)), http.StatusSeeOther)
}

// setErrand is as setCookie, but for a cookie that comes along when the provider sends the browser back: Lax.
func setErrand(w http.ResponseWriter, secure bool, value string, age time.Duration) {
	//nolint:gosec // Secure over https alone, as in setCookie
	c := &http.Cookie{Name: errandCookie, Value: value, Path: Path + "/login", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode, MaxAge: int(age.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// finishOIDC takes the browser back from the provider, and logs it in if its user may.
func (a *Admin) finishOIDC(w http.ResponseWriter, r *http.Request) {
	from := realtime.AddressOf(r)
	if !a.attempts.allow(from, time.Now()) {
		a.tooMany(w, r, from)
		return
	}
	setErrand(w, isSecure(r), "", 0)
	user, err := a.identify(r)
	if err != nil {
		a.cfg.Logger.WarnContext(r.Context(), "a login to the dashboard by the identity provider was refused", "address", from.Addr().String(), "error", err)
		status, why := http.StatusUnauthorized, "That login was not finished. Try again."
		switch {
		case errors.Is(err, errNotAllowed):
			status, why = http.StatusForbidden, "You are not among those who may see the dashboard."
		case errors.Is(err, errProvider):
			status, why = http.StatusServiceUnavailable, "The identity provider does not answer. The log says why."
		}
		a.showLogin(w, status, why)
		return
	}
	s := a.sessions.new(time.Now())
	a.cfg.Logger.InfoContext(r.Context(), "somebody logged in to the dashboard", "address", from.Addr().String(), "user", user)
	setCookie(w, isSecure(r), a.sessions.sign(s), sessionAge)
	// Not a redirect: after one that another site began, the browser would not send a cookie that is SameSite=Strict.
	a.html(w, http.StatusOK, `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=`+Path+`"><title>Forgewire</title></head>`+
		`<body><a href="`+Path+`">Go on to the dashboard</a></body></html>`)
}

// Why a login by the provider is refused.
var (
	errNotAllowed = errors.New("not one of FORGEWIRE_ADMIN_OIDC_ALLOWED")
	errProvider   = errors.New("the identity provider does not answer")
)

// identify asks the provider whom it sent back.
func (a *Admin) identify(r *http.Request) (user string, err error) {
	cookie, err := r.Cookie(errandCookie)
	if err != nil {
		return "", errors.New("the browser was not sent from here")
	}
	e, err := a.sessions.parseErrand(cookie.Value, time.Now())
	if err != nil {
		return "", errors.New("the browser was not sent from here, or took too long")
	}
	q := r.URL.Query()
	if !hmac.Equal([]byte(q.Get("state")), []byte(e.State)) {
		return "", errors.New("the answer is not to this browser's question")
	}
	if code := q.Get("error"); code != "" {
		return "", fmt.Errorf("the provider refused: %.100q", code)
	}
	known, client, err := a.provider.discover(r.Context())
	if err != nil {
		return "", fmt.Errorf("%w: %w", errProvider, err)
	}
	ctx := oidc.ClientContext(r.Context(), a.provider.client)
	token, err := client.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(e.Verifier))
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) && refused.Response.StatusCode < http.StatusInternalServerError {
		return "", fmt.Errorf("the code is not good: %.100q", refused.ErrorCode) // the body may hold secrets
	}
	if err != nil {
		return "", fmt.Errorf("%w: the code could not be exchanged", errProvider)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := known.Verifier(&oidc.Config{ClientID: a.provider.cfg.ClientID}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("the ID token is not good: %w", err)
	}
	if !hmac.Equal([]byte(id.Nonce), []byte(e.Nonce)) {
		return "", errors.New("the ID token is not of this login")
	}
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	if err = id.Claims(&claims); err != nil {
		return "", fmt.Errorf("read the ID token: %w", err)
	}
	return a.provider.cfg.allow(id.Subject, claims.Email, claims.Verified)
}

// allow returns what the user is called in the log, if he may log in.
func (c *OIDC) allow(subject, email string, verified bool) (string, error) {
	for _, pattern := range c.Allowed {
		if pattern == subject {
			return subject, nil
		}
		if ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(email)); ok && err == nil && verified && strings.Contains(pattern, "@") {
			return email, nil
		}
	}
	return "", fmt.Errorf("%w: sub %.100q", errNotAllowed, subject)
}
