package handlers_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"forgewire/handlers"
	"forgewire/handlers/admin"
	"forgewire/realtime"
)

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// issuer is an identity provider, as OpenID Connect Core and Discovery have it, on which everybody is logged in already
// and agrees.
type issuer struct {
	*httptest.Server
	key *rsa.PrivateKey

	mu     sync.Mutex
	claims jwt.MapClaims         // of the next login, beside those that every one has
	codes  map[string]url.Values // what was asked, by code
	broken bool                  // it answers nothing that is understood
	signer *rsa.PrivateKey       // of the next token, if it is not key
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	p := &issuer{key: must(rsa.GenerateKey(rand.Reader, 2048)), codes: map[string]url.Values{}}
	p.signer = p.key
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.broken {
			http.Error(w, "sorry", http.StatusBadGateway)
			return
		}
		answer(w, 200, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
			"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"keys": []any{map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": base64.RawURLEncoding.EncodeToString(p.key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(p.key.E)).Bytes())}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("client_id") != "dashboard" || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || !strings.Contains(q.Get("scope"), "openid") {
			http.Error(w, r.URL.RawQuery, http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		code := rand.Text()
		p.codes[code] = q
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		p.mu.Lock()
		defer p.mu.Unlock()
		asked, ok := p.codes[r.FormValue("code")]
		delete(p.codes, r.FormValue("code"))
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if !ok || id != "dashboard" || secret != "provider-secret" || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || r.FormValue("redirect_uri") != asked.Get("redirect_uri") {
			answer(w, 400, map[string]string{"error": "invalid_grant"})
			return
		}
		claims := jwt.MapClaims{"iss": p.URL, "aud": "dashboard", "sub": "user-1", "nonce": asked.Get("nonce"), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
		for k, v := range p.claims {
			claims[k] = v
		}
		token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
		token.Header["kid"] = "1"
		answer(w, 200, map[string]any{"access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": must(token.SignedString(p.signer))})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *issuer) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// newProviderDashboard is a dashboard that knows no password.
func newProviderDashboard(t *testing.T, p *issuer, log *logBuffer) *cluster {
	t.Helper()
	key := must(admin.Key("provider-secret", apiKey))
	tokens := realtime.TokenConfig{Secret: "secret of the tests", OperatorKey: key}
	return newClusterOf(t, tokens, func(cfg *handlers.Config) {
		cfg.Admin = must(admin.New(admin.Config{Key: key, Tokens: tokens, Node: cfg.Node, Gate: cfg.Gate, Resources: cfg.Resources,
			Pool: cfg.Pools["requests"], Logger: slog.New(slog.NewTextHandler(log, nil)), Version: "test",
			OIDC: &admin.OIDC{Issuer: p.URL, ClientID: "dashboard", ClientSecret: "provider-secret", RedirectURL: "https://push.example.com" + admin.CallbackPath,
				Allowed: []string{"ada@example.com", "*@ops.example.com", "user-42"}}}))
	})
}

// through goes to the provider and returns where it sends the browser back to, on our server.
func (v *visitor) through() (callback string) {
	v.t.Helper()
	a, text := v.do(http.MethodGet, "/admin/login/oidc", "")
	if a.StatusCode != http.StatusSeeOther {
		v.t.Fatalf("not sent to the provider: %d %s", a.StatusCode, text)
	}
	req := must(http.NewRequestWithContext(v.t.Context(), http.MethodGet, a.Header.Get("Location"), nil))
	resp := must(v.http.Do(req)) //nolint:bodyclose // it is, below: the linter does not see through must
	defer resp.Body.Close()
	back := must(url.Parse(resp.Header.Get("Location")))
	if resp.StatusCode != http.StatusFound || back.Host != "push.example.com" || back.Path != admin.CallbackPath {
		v.t.Fatalf("the provider answers %d %s", resp.StatusCode, back)
	}
	return back.RequestURI()
}

// Who the provider says may see the dashboard does, on every replica; nobody else does, and there is no password.
func TestAdminByProvider(t *testing.T) {
	t.Parallel()
	p := newIssuer(t)
	var log logBuffer
	c := newProviderDashboard(t, p, &log)
	for name, login := range map[string]struct {
		claims jwt.MapClaims
		status int
	}{
		"an address that is listed":  {jwt.MapClaims{"email": "Ada@Example.com", "email_verified": true}, 200},
		"a domain that is listed":    {jwt.MapClaims{"email": "bob@ops.example.com", "email_verified": true}, 200},
		"a user that is listed":      {jwt.MapClaims{"sub": "user-42"}, 200},
		"an address that is not":     {jwt.MapClaims{"email": "eve@example.com", "email_verified": true}, 403},
		"one that is not verified":   {jwt.MapClaims{"email": "ada@example.com"}, 403},
		"one that only ends like it": {jwt.MapClaims{"email": "eve@evil.test", "email_verified": true, "sub": "ada@example.com.evil.test"}, 403},
		"nobody":                     {jwt.MapClaims{"sub": ""}, 403},
		"another client's token":     {jwt.MapClaims{"aud": "another", "sub": "user-42"}, 401},
		"another provider's":         {jwt.MapClaims{"iss": "https://evil.test", "sub": "user-42"}, 401},
		"one that has ended":         {jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix(), "sub": "user-42"}, 401},
		"another login's (nonce)":    {jwt.MapClaims{"nonce": "another", "sub": "user-42"}, 401},
	} {
		p.set(func() { p.claims = login.claims })
		v := c.visitor(t, 0)
		v.forwarded(name)
		v.wants(login.status, http.MethodGet, v.through(), "")
		want := http.StatusUnauthorized
		if login.status == http.StatusOK {
			want = http.StatusOK
		}
		v.wants(want, http.MethodGet, "/admin/api/session", "")
		v.server = c.servers[1].URL
		v.wants(want, http.MethodGet, "/admin/api/session", "")
	}
	v := c.visitor(t, 0)
	v.wants(http.StatusNotFound, http.MethodPost, "/admin/login", "password=")
	if page := v.wants(http.StatusOK, http.MethodGet, "/admin", ""); strings.Contains(page, `type="password"`) || !strings.Contains(page, `href="/admin/login/oidc"`) {
		t.Error(page)
	}
	if strings.Contains(log.String(), "provider-secret") || !strings.Contains(log.String(), "user=bob@ops.example.com") {
		t.Errorf("the log: %s", log.String())
	}
}

// forwarded gives a visitor an address of its own: attempts are counted by address. The tests' server trusts no header,
// so it is a loopback address.
func (v *visitor) forwarded(name string) {
	sum := sha256.Sum256([]byte(name))
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, sum[0], sum[1], 1+sum[2]%254)}}
	transport := &http.Transport{DialContext: d.DialContext}
	v.http.Transport = transport
	v.t.Cleanup(transport.CloseIdleConnections)
}

// Only the browser that was sent away is let in, once, and only with the answer to its own question.
func TestAdminByProviderCannotBeForced(t *testing.T) {
	t.Parallel()
	p := newIssuer(t)
	p.claims = jwt.MapClaims{"sub": "user-42"}
	var log logBuffer
	c := newProviderDashboard(t, p, &log)
	visit := func(name string) *visitor {
		v := c.visitor(t, 0)
		v.forwarded(name)
		return v
	}
	// An attacker's own answer, given to another browser (login CSRF): with no errand, and with one of its own.
	attacker, victim := visit("attacker"), visit("victim")
	callback := attacker.through()
	victim.wants(http.StatusUnauthorized, http.MethodGet, callback, "")
	victim.through()
	victim.wants(http.StatusUnauthorized, http.MethodGet, callback, "")
	victim.wants(http.StatusUnauthorized, http.MethodGet, "/admin/api/session", "")

	again := visit("again")
	callback = again.through()
	again.wants(http.StatusOK, http.MethodGet, callback, "")
	again.wants(http.StatusUnauthorized, http.MethodGet, callback, "")

	forged := visit("forged")
	p.set(func() { p.signer = must(rsa.GenerateKey(rand.Reader, 2048)) })
	forged.wants(http.StatusUnauthorized, http.MethodGet, forged.through(), "")
	p.set(func() { p.signer = p.key })

	refused := visit("refused")
	state := must(url.Parse(refused.through())).Query().Get("state")
	refused.wants(http.StatusUnauthorized, http.MethodGet, admin.CallbackPath+"?error=access_denied&state="+state, "")
}

// A provider that does not answer is said to be so, and asked again by the next one who comes.
func TestAdminProviderIsAway(t *testing.T) {
	t.Parallel()
	p := newIssuer(t)
	p.claims, p.broken = jwt.MapClaims{"sub": "user-42"}, true
	var log logBuffer
	c := newProviderDashboard(t, p, &log)
	v := c.visitor(t, 0)
	if page := v.wants(http.StatusServiceUnavailable, http.MethodGet, "/admin/login/oidc", ""); !strings.Contains(page, "does not answer") {
		t.Error(page)
	}
	if !strings.Contains(log.String(), "FORGEWIRE_ADMIN_OIDC_ISSUER") || !strings.Contains(log.String(), "502") {
		t.Errorf("the log does not say why: %s", log.String())
	}
	p.set(func() { p.broken = false })
	v.wants(http.StatusOK, http.MethodGet, v.through(), "")
}
