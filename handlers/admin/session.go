package admin

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	sessionAge  = 8 * time.Hour
	tokenAge    = 5 * time.Minute // of a WebSocket's, which the page renews
	clockLeeway = 30 * time.Second

	cookieName       = "forgewire-admin"
	secureCookieName = "__Secure-" + cookieName // which browsers take over https alone

	idBytes      = 16
	sessionBytes = idBytes + 8 + 8
)

// keyRounds makes guessing the password from a cookie slow, where nothing else that is secret goes into the key.
const keyRounds = 200_000

// Key makes the key that sessions are signed with. All replicas make the same one of what they are configured with,
// and it changes with the password.
func Key(password string, others ...string) ([]byte, error) {
	salt := hmac.New(sha256.New, []byte("forgewire dashboard"))
	for _, s := range others {
		_ = binary.Write(salt, binary.BigEndian, uint64(len(s))) // a hash takes everything
		salt.Write([]byte(s))
	}
	key, err := pbkdf2.Key(sha256.New, password, salt.Sum(nil), keyRounds, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the dashboard's sessions: %w", err)
	}
	return key, nil
}

// session is a login.
type session struct {
	id              [idBytes]byte
	issued, expires time.Time
}

// user is what the session is called where it can be revoked.
func (s session) user() string { return fmt.Sprintf("operator-%x", s.id) }

// sessions makes and reads cookies' values: id, beginning and end, and what they are signed with.
type sessions struct{ key []byte }

func (s sessions) new(now time.Time) session {
	n := session{issued: now.Truncate(time.Second), expires: now.Add(sessionAge).Truncate(time.Second)}
	_, _ = rand.Read(n.id[:]) // it never fails: the program ends instead
	return n
}

func (s sessions) sign(n session) string {
	b := append(make([]byte, 0, sessionBytes+sha256.Size), n.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(n.issued.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(n.expires.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, s.mac(b)...))
}

func (s sessions) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte("session\n"))
	h.Write(b)
	return h.Sum(nil)
}

var errSession = errors.New("not a session")

// parse reads a value that sign made, unless its time is over.
func (s sessions) parse(value string, now time.Time) (n session, err error) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) != sessionBytes+sha256.Size {
		return n, errSession
	}
	if !hmac.Equal(b[sessionBytes:], s.mac(b[:sessionBytes])) {
		return n, errSession
	}
	copy(n.id[:], b)
	n.issued = time.Unix(int64(binary.BigEndian.Uint64(b[idBytes:])), 0)
	n.expires = time.Unix(int64(binary.BigEndian.Uint64(b[idBytes+8:])), 0)
	if !now.Before(n.expires) || now.Add(clockLeeway).Before(n.issued) {
		return n, errSession
	}
	return n, nil
}

// session is the request's, if it has one that is good and was not ended.
func (a *Admin) session(r *http.Request) (session, bool) {
	for _, name := range []string{secureCookieName, cookieName} {
		c, err := r.Cookie(name)
		if err != nil {
			continue
		}
		if s, err := a.sessions.parse(c.Value, time.Now()); err == nil && !a.cfg.Node.Revoked(s.user(), s.issued) {
			return s, true
		}
	}
	return session{}, false
}

type sessionKey struct{}

// authenticate lets requests of a session through.
func (a *Admin) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := a.session(r)
		if ok {
			defer a.cfg.Node.Use(r.Context())()
			s, ok = a.session(r) // a replica that rested may not have heard that it was ended
		}
		if !ok {
			a.fail(w, r, http.StatusUnauthorized, "log in")
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s)))
	})
}

// isSecure says whether the browser came over https. What a client makes up can only cost itself its cookie.
func isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") || strings.HasPrefix(r.Header.Get("Origin"), "https://")
}

// setCookie gives the browser a session, or takes it away. The path keeps it from the WebSocket's handshake, whose
// cookies may be told to the team's own backend.
func setCookie(w http.ResponseWriter, secure bool, value string, age time.Duration) {
	//nolint:gosec // Secure over https alone: over http a browser would not take it
	c := &http.Cookie{Name: cookieName, Value: value, Path: Path, HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode, MaxAge: int(age.Seconds())}
	if secure {
		c.Name = secureCookieName
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// tokenResult is what the page needs to connect.
type tokenResult struct {
	Token   string    `json:"token"`
	Channel string    `json:"channel"` // of the figures
	Expires time.Time `json:"expires"` // of the session
	Version string    `json:"version"`
}

// getSession gives the page a token for the WebSocket, which ends soon, and with the session at the latest.
func (a *Admin) getSession(w http.ResponseWriter, r *http.Request) {
	s, _ := r.Context().Value(sessionKey{}).(session)
	token, err := a.cfg.Tokens.SignOperator(s.user(), min(tokenAge, time.Until(s.expires)))
	if err != nil {
		a.failed(w, r, err)
		return
	}
	a.write(w, r, http.StatusOK, tokenResult{Token: token, Channel: figuresChannel, Expires: s.expires, Version: a.cfg.Version})
}
