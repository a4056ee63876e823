package realtime

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// jwkOf is the public half of a test key as a set has it.
func jwkOf(kind, kid string, more ...string) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	j := map[string]any{"kid": kid}
	switch k := testKeys()[kind].Public().(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		raw := must(k.Bytes())
		half := (len(raw) - 1) / 2
		j["kty"], j["crv"], j["x"], j["y"] = "EC", k.Params().Name, b64(raw[1:1+half]), b64(raw[1+half:])
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(k)
	}
	for i := 0; i < len(more); i += 2 {
		j[more[i]] = more[i+1]
	}
	return j
}

func zipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

func keySet(keys ...map[string]any) []byte { return must(json.Marshal(map[string]any{"keys": keys})) }

// jwksServer serves whatever it was last told to, and counts.
type jwksServer struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func (s *jwksServer) serve(f http.HandlerFunc) { s.answer.Store(&f) }

func (s *jwksServer) body(b []byte) {
	s.serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) })
}

func newJWKSServer(t *testing.T) (*jwksServer, *verifier, func(time.Duration)) {
	t.Helper()
	s := &jwksServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	v := testVerifier(TokenConfig{KeySets: map[string]string{"": s.URL + "/keys"}})
	var mu sync.Mutex
	at := time.Now()
	v.keys[""].now = func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	return s, v, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); at = at.Add(d) }
}

func kid(name string) map[string]any { return map[string]any{"kid": name} }

func TestJWKSKinds(t *testing.T) {
	s, v, _ := newJWKSServer(t)
	off := jwkOf("p256", "off-curve")
	off["y"] = off["x"]
	s.body(keySet(jwkOf("rsa", "r"), jwkOf("p256", "p2"), jwkOf("p384", "p3"), jwkOf("p521", "p5"), jwkOf("ed", "e"),
		jwkOf("weak", "weak"), jwkOf("rsa", "enc", "use", "enc"), jwkOf("rsa", "only384", "alg", "RS384"), off,
		map[string]any{"kid": "oct", "kty": "oct", "k": base64.RawURLEncoding.EncodeToString([]byte(testSecret))}, jwkOf("ed", "")))
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{"RSA", sign("RS256", testKeys()["rsa"], kid("r"), joe()), wantGood},
		{"PSS", sign("PS512", testKeys()["rsa"], kid("r"), joe()), wantGood},
		{"P-256", sign("ES256", testKeys()["p256"], kid("p2"), joe()), wantGood},
		{"P-384", sign("ES384", testKeys()["p384"], kid("p3"), joe()), wantGood},
		{"P-521", sign("ES512", testKeys()["p521"], kid("p5"), joe()), wantGood},
		{"Ed25519", sign("EdDSA", testKeys()["ed"], kid("e"), joe()), wantGood},
		{"its only algorithm", sign("RS384", testKeys()["rsa"], kid("only384"), joe()), wantGood},
		{"another than its only algorithm", sign("RS256", testKeys()["rsa"], kid("only384"), joe()), wantBad},
		{"another key's name", sign("ES256", testKeys()["p256"], kid("r"), joe()), wantBad},
		{"a name and another key", sign("ES256", testKeys()["other"], kid("p2"), joe()), wantBad},
		{"no name", sign("ES256", testKeys()["p256"], nil, joe()), wantBad},
		{"an empty name", sign("EdDSA", testKeys()["ed"], kid(""), joe()), wantBad},
		{"a name that is no text", sign("ES256", testKeys()["p256"], map[string]any{"kid": 1}, joe()), wantBad},
		{"a path", sign("ES256", testKeys()["p256"], kid("../p2"), joe()), wantBad},
		{"a key of its own", sign("ES256", testKeys()["other"], map[string]any{"kid": "mine", "jwk": jwkOf("other", "mine"), "jku": "http://evil.example/"}, joe()), wantBad},
		{"a key for encryption", sign("RS256", testKeys()["rsa"], kid("enc"), joe()), wantBad},
		{"a weak key", sign("RS256", testKeys()["weak"], kid("weak"), joe()), wantBad},
		{"the set's symmetric key", sign("HS256", []byte(testSecret), kid("oct"), joe()), wantBad},
	} {
		judgeToken(t, c.name, v, c.token, c.want)
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the set was read %d times within the cooldown", n)
	}
}

// A new key is found as soon as the cooldown allows, and one that was withdrawn is noticed.
func TestJWKSRotation(t *testing.T) {
	s, v, advance := newJWKSServer(t)
	old, next := sign("ES256", testKeys()["p256"], kid("old"), joe()), sign("ES256", testKeys()["other"], kid("new"), joe())
	s.body(keySet(jwkOf("p256", "old")))
	judgeToken(t, "the first key", v, old, wantGood)
	s.body(keySet(jwkOf("other", "new")))
	if _, err := v.connection(t.Context(), next); !errors.Is(err, errKeysUnavailable) {
		t.Errorf("within the cooldown nobody can tell: %v", err)
	}
	advance(jwksCooldown)
	judgeToken(t, "the next key", v, next, wantGood)
	judgeToken(t, "the withdrawn key", v, old, wantBad)
	if n := s.asked.Load(); n != 2 {
		t.Errorf("the set was read %d times", n)
	}
	// Withdrawn, and nobody comes with an unknown one: noticed by age.
	s.body(keySet(jwkOf("p256", "old")))
	judgeToken(t, "not noticed yet", v, next, wantGood)
	advance(jwksMaxAge)
	judgeToken(t, "noticed", v, next, wantBad)
}

// Whatever its server does, the keys that are known stay good, and nobody waits or asks more than is decent.
func TestJWKSServerTrouble(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keySet(jwkOf("other", "new"))) }))
	defer elsewhere.Close()
	bomb := zipped(append(keySet(jwkOf("other", "new")), bytes.Repeat([]byte(" "), 16*jwksMaxBytes)...))
	for name, trouble := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) },
		"cut":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"no JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no keys":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keySet()) },
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append(keySet(jwkOf("other", "new")), strings.Repeat(" ", jwksMaxBytes)...))
		},
		"a bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		},
		"a redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"a redirect loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"a redirect local": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, advance := newJWKSServer(t)
			s.serve(trouble)
			old, next := sign("ES256", testKeys()["p256"], kid("old"), joe()), sign("ES256", testKeys()["other"], kid("new"), joe())
			if _, err := v.connection(t.Context(), old); !errors.Is(err, errKeysUnavailable) {
				t.Fatalf("nothing is known: %v", err)
			}
			advance(jwksCooldown)
			s.body(keySet(jwkOf("p256", "old")))
			judgeToken(t, "it works", v, old, wantGood)
			s.serve(trouble)
			advance(jwksMaxAge)
			before := s.asked.Load()
			for range 5 {
				judgeToken(t, "known", v, old, wantGood)
				if _, err := v.connection(t.Context(), next); !errors.Is(err, errKeysUnavailable) {
					t.Errorf("unknown: %v", err)
				}
			}
			if n := s.asked.Load() - before; n > 1+jwksRedirects+1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// Many clients that come at once are one request.
func TestJWKSOneFlight(t *testing.T) {
	s, v, _ := newJWKSServer(t)
	release := make(chan struct{})
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = w.Write(keySet(jwkOf("p256", "a")))
	})
	token := sign("ES256", testKeys()["p256"], kid("a"), joe())
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 50 {
		wg.Go(func() {
			if _, err := v.connection(t.Context(), token); err == nil {
				good.Add(1)
			}
		})
	}
	eventually(t, 10*time.Second, "somebody asks", func() bool { return s.asked.Load() > 0 })
	close(release)
	wg.Wait()
	if s.asked.Load() != 1 || good.Load() != 50 {
		t.Errorf("%d requests, %d good", s.asked.Load(), good.Load())
	}
}

// A key set beside a public key: each verifies its own tokens, also while the set cannot be read.
func TestJWKSBesidePublicKey(t *testing.T) {
	s, _, _ := newJWKSServer(t)
	s.body(keySet(jwkOf("other", "theirs")))
	v := testVerifier(TokenConfig{KeySets: map[string]string{"": s.URL}, PublicKey: testKeys()["p256"].Public(), Secret: testSecret})
	judgeToken(t, "theirs", v, sign("ES256", testKeys()["other"], kid("theirs"), joe()), wantGood)
	judgeToken(t, "ours", v, sign("ES256", testKeys()["p256"], nil, joe()), wantGood)
	judgeToken(t, "ours with a name", v, sign("ES256", testKeys()["p256"], kid("ours"), joe()), wantGood)
	judgeToken(t, "the secret's", v, sign("HS256", []byte(testSecret), nil, joe()), wantGood)
	judgeToken(t, "nobody's", v, sign("ES256", testKeys()["other"], nil, joe()), wantBad)
	s.serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) })
	v = testVerifier(TokenConfig{KeySets: map[string]string{"": s.URL}, PublicKey: testKeys()["p256"].Public()})
	judgeToken(t, "ours while theirs is down", v, sign("ES256", testKeys()["p256"], kid("ours"), joe()), wantGood)
	if _, err := v.connection(t.Context(), sign("ES256", testKeys()["other"], kid("theirs"), joe())); !errors.Is(err, errKeysUnavailable) {
		t.Errorf("theirs while it is down: %v", err)
	}
}

// Two issuers may name their keys alike, and one of them may be the other's enemy: a set verifies its own issuer's tokens.
func TestJWKSOfSeveralIssuers(t *testing.T) {
	ours, _, _ := newJWKSServer(t)
	theirs, _, _ := newJWKSServer(t)
	ours.body(keySet(jwkOf("p256", "1"), jwkOf("ed", "e")))
	theirs.body(keySet(jwkOf("other", "1")))
	v := testVerifier(TokenConfig{KeySets: map[string]string{"https://ours/": ours.URL, "https://theirs/": theirs.URL}})
	p256, other := testKeys()["p256"], testKeys()["other"]
	judgeToken(t, "ours", v, sign("ES256", p256, kid("1"), joe("iss", "https://ours/")), wantGood)
	judgeToken(t, "theirs", v, sign("ES256", other, kid("1"), joe("iss", "https://theirs/")), wantGood)
	judgeToken(t, "theirs, as if it were ours", v, sign("ES256", other, kid("1"), joe("iss", "https://ours/")), wantBad)
	judgeToken(t, "ours, as if it were theirs", v, sign("ES256", p256, kid("1"), joe("iss", "https://theirs/")), wantBad)
	judgeToken(t, "a name that only we have", v, sign("EdDSA", testKeys()["ed"], kid("e"), joe("iss", "https://theirs/")), wantBad)
	for name, claims := range map[string]map[string]any{
		"no issuer": joe(), "an empty issuer": joe("iss", ""), "another issuer": joe("iss", "https://ours"), "an issuer that is no text": joe("iss", []string{"https://ours/"}),
	} {
		judgeToken(t, name, v, sign("ES256", p256, kid("1"), claims), wantBad)
	}
	theirs.serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) })
	v = testVerifier(TokenConfig{KeySets: map[string]string{"https://ours/": ours.URL, "https://theirs/": theirs.URL}})
	judgeToken(t, "ours while theirs is down", v, sign("ES256", p256, kid("1"), joe("iss", "https://ours/")), wantGood)
}
