package realtime

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// testKeys are one private key of each kind.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"rsa": must(rsa.GenerateKey(rand.Reader, 2048)), "weak": must(rsa.GenerateKey(rand.Reader, 1024)), "ed": ed,
		"p256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "p384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"p521": must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), "other": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
	}
})

func publicPEM(key crypto.Signer) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))}))
}

// sign makes a token with whatever is asked for.
func sign(alg string, key any, header, claims map[string]any) string {
	t := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims(claims))
	for k, v := range header {
		t.Header[k] = v
	}
	return must(t.SignedString(key))
}

func joe(more ...any) map[string]any {
	c := map[string]any{"sub": "joe"}
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}

func testVerifier(cfg TokenConfig) *verifier { return newVerifier(cfg, slog.New(slog.DiscardHandler)) }

const (
	wantGood = iota
	wantExpired
	wantBad
)

func judgeToken(t *testing.T, name string, v *verifier, token string, want int) {
	t.Helper()
	claims, err := v.connection(t.Context(), token)
	got := wantBad
	switch {
	case err == nil:
		got = wantGood
	case errors.Is(err, ErrTokenExpired):
		got = wantExpired
	}
	if got != want || err == nil && claims.Subject != "joe" {
		t.Errorf("%s: %+v, %v", name, claims, err)
	}
}

func TestVerifyToken(t *testing.T) {
	good := must(SignToken(testSecret, "joe", time.Hour))
	expired := must(SignToken(testSecret, "joe", -time.Hour))
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	secret := []byte(testSecret)
	now := time.Now().Unix()
	v := testVerifier(TokenConfig{Secret: testSecret})
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{"good", good, wantGood},
		{"HS384", sign("HS384", secret, nil, joe()), wantGood},
		{"HS512", sign("HS512", secret, nil, joe()), wantGood},
		{"a kid, which means nothing to a secret", sign("HS256", secret, map[string]any{"kid": "../../etc/passwd", "jku": "http://evil/", "jwk": map[string]any{"kty": "oct", "k": "AA"}}, joe()), wantGood},
		{"expired", expired, wantExpired},
		{"alg none", sign("none", jwt.UnsafeAllowNoneSignatureType, nil, joe()), wantBad},
		{"alg none with a signature", sign("HS256", secret, map[string]any{"alg": "none"}, joe()), wantBad},
		{"alg in another case", sign("HS256", secret, map[string]any{"alg": "hs256"}, joe()), wantBad},
		{"alg that is no text", sign("HS256", secret, map[string]any{"alg": []string{"HS256"}}, joe()), wantBad},
		{"alg empty", sign("HS256", secret, map[string]any{"alg": ""}, joe()), wantBad},
		{"another kind of key", sign("EdDSA", testKeys()["ed"], nil, joe()), wantBad},
		{"another secret", sign("HS256", []byte("another secret, another secret"), nil, joe()), wantBad},
		{"expired and badly signed", sign("HS256", []byte("another secret, another secret"), nil, joe("exp", now-3600)), wantBad},
		{"not yet", sign("HS256", secret, nil, joe("nbf", now+3600)), wantBad},
		{"not yet and expired", sign("HS256", secret, nil, joe("nbf", now+3600, "exp", now-3600)), wantBad},
		{"their clock is behind", sign("HS256", secret, nil, joe("exp", now-2)), wantGood},
		{"their clock is ahead", sign("HS256", secret, nil, joe("nbf", now+2)), wantGood},
		{"more than a few seconds", sign("HS256", secret, nil, joe("exp", now-10)), wantExpired},
		{"exp is text", sign("HS256", secret, nil, joe("exp", "tomorrow")), wantBad},
		{"sub is a number", sign("HS256", secret, nil, map[string]any{"sub": 42}), wantBad},
		{"a subscription token", sign("HS256", secret, nil, joe("channel", "$a")), wantBad},
		{"a channel that cannot be", sign("HS256", secret, nil, joe("channels", []string{"a\nb"})), wantBad},
		{"too many channels", sign("HS256", secret, nil, joe("channels", make([]string, 1001))), wantBad},
		{"no signature", head + "." + body + ".", wantBad},
		{"another body", head + "." + body[:len(body)-2] + "." + sig, wantBad},
		{"garbage", "garbage", wantBad},
		{"empty", "", wantBad},
		{"dots", strings.Repeat(".", 1000), wantBad},
		{"too long", good + strings.Repeat("x", maxTokenBytes), wantBad},
	} {
		judgeToken(t, c.name, v, c.token, c.want)
	}
	judgeToken(t, "nothing is configured", testVerifier(TokenConfig{}), good, wantBad)
	judgeToken(t, "alg none where nothing is configured", testVerifier(TokenConfig{}), sign("none", jwt.UnsafeAllowNoneSignatureType, nil, joe()), wantBad)
	judgeToken(t, "an empty secret where none is configured", testVerifier(TokenConfig{PublicKey: testKeys()["rsa"].Public()}), sign("HS256", []byte{}, nil, joe()), wantBad)
}

// Each kind of key verifies its own algorithms and no other.
func TestKeyKinds(t *testing.T) {
	kinds := map[string][]string{"rsa": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, "p256": {"ES256"}, "p384": {"ES384"}, "p521": {"ES512"}, "ed": {"EdDSA"}}
	for configured := range kinds {
		key, err := ParsePublicKey(publicPEM(testKeys()[configured]))
		if err != nil {
			t.Fatal(configured, err)
		}
		v := testVerifier(TokenConfig{PublicKey: key})
		for kind, algs := range kinds {
			for _, alg := range algs {
				want := wantBad
				if kind == configured {
					want = wantGood
				}
				judgeToken(t, configured+" given "+alg, v, sign(alg, testKeys()[kind], nil, joe()), want)
			}
		}
	}
	judgeToken(t, "another key of the kind", testVerifier(TokenConfig{PublicKey: testKeys()["p256"].Public()}), sign("ES256", testKeys()["other"], nil, joe()), wantBad)
}

// Who knows a public key, as everybody does, cannot sign with it: it is never a secret.
func TestKeyConfusion(t *testing.T) {
	for _, kind := range []string{"rsa", "p256", "ed"} {
		text := publicPEM(testKeys()[kind])
		der := must(x509.MarshalPKIXPublicKey(testKeys()[kind].Public()))
		for name, v := range map[string]*verifier{
			"alone":         testVerifier(TokenConfig{PublicKey: testKeys()[kind].Public()}),
			"with a secret": testVerifier(TokenConfig{PublicKey: testKeys()[kind].Public(), Secret: testSecret}),
		} {
			for _, secret := range [][]byte{[]byte(text), []byte(strings.TrimSpace(text)), der} {
				judgeToken(t, kind+" "+name, v, sign("HS256", secret, nil, joe()), wantBad)
			}
		}
	}
	both := testVerifier(TokenConfig{PublicKey: testKeys()["rsa"].Public(), Secret: testSecret})
	judgeToken(t, "both: the secret", both, sign("HS256", []byte(testSecret), nil, joe()), wantGood)
	judgeToken(t, "both: the key", both, sign("RS256", testKeys()["rsa"], nil, joe()), wantGood)
}

func TestAudienceAndIssuer(t *testing.T) {
	v := testVerifier(TokenConfig{Secret: testSecret, Audience: "us", Issuer: "them"})
	judgeToken(t, "our own", v, must(TokenConfig{Secret: testSecret, Audience: "us", Issuer: "them"}.Sign("joe", time.Hour)), wantGood)
	if _, err := (TokenConfig{}).Sign("joe", time.Hour); err == nil {
		t.Error("signed with nothing")
	}
	past := time.Now().Unix() - 3600
	for _, c := range []struct {
		name   string
		claims map[string]any
		want   int
	}{
		{"right", joe("aud", "us", "iss", "them"), wantGood},
		{"one of several", joe("aud", []string{"others", "us"}, "iss", "them"), wantGood},
		{"expired", joe("aud", "us", "iss", "them", "exp", past), wantExpired},
		{"no audience", joe("iss", "them"), wantBad},
		{"another audience", joe("aud", "use", "iss", "them"), wantBad},
		{"no issuer", joe("aud", "us"), wantBad},
		{"another issuer", joe("aud", "us", "iss", "us"), wantBad},
		{"expired and for another", joe("aud", "others", "iss", "them", "exp", past), wantBad},
		{"expired and from nobody", joe("aud", "us", "exp", past), wantBad},
	} {
		judgeToken(t, c.name, v, sign("HS256", []byte(testSecret), nil, c.claims), c.want)
	}
}

func TestSubscriptionToken(t *testing.T) {
	v := testVerifier(TokenConfig{Secret: testSecret})
	for _, c := range []struct {
		name   string
		claims map[string]any
		ok     bool
	}{
		{"right", joe("channel", "$a", "info", map[string]any{"a": 1}), true},
		{"another channel", joe("channel", "$b"), false},
		{"no channel", joe(), false},
		{"another user", map[string]any{"sub": "jane", "channel": "$a"}, false},
		{"no user", map[string]any{"channel": "$a"}, false},
	} {
		claims, err := v.subscription(t.Context(), sign("HS256", []byte(testSecret), nil, c.claims), "joe", "$a")
		if c.ok != (err == nil) || c.ok && string(claims.Info) != `{"a":1}` {
			t.Errorf("%s: %+v, %v", c.name, claims, err)
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	rsaKey := testKeys()["rsa"].(*rsa.PrivateKey)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(rsaKey))}))
	for _, c := range []struct{ name, text, wrong string }{
		{"PKIX", publicPEM(rsaKey), ""},
		{"PKCS1", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)})), ""},
		{"one line", strings.ReplaceAll(publicPEM(rsaKey), "\n", `\n`), ""},
		{"weak", publicPEM(testKeys()["weak"]), "1024 bits"},
		{"private", private, "private key"},
		{"another thing", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "neither"},
		{"broken", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"},
		{"no PEM", "sesame", "not PEM"},
	} {
		_, err := ParsePublicKey(c.text)
		if (c.wrong == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.wrong) && c.wrong != "cannot be read" {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "MII")) {
			t.Errorf("%s: the text is in %v", c.name, err)
		}
	}
}

// FuzzToken: nothing but a right signature makes a token good, and whatever is signed never breaks a reply.
func FuzzToken(f *testing.F) {
	f.Add(must(SignToken(testSecret, "joe", time.Hour)), []byte(`{"sub":"joe"}`))
	f.Add("a.b.c", []byte(`{"sub":"a","exp":1e300,"info":{"a":"\n"},"channels":["a"],"subs":{"b":{"data":{}}},"iat":-1}`))
	f.Add(sign("none", jwt.UnsafeAllowNoneSignatureType, nil, joe()), []byte("{\n}"))
	f.Add(sign("RS256", testKeys()["rsa"], map[string]any{"kid": "a"}, joe()), []byte(`null`))
	other := testVerifier(TokenConfig{Secret: "a secret that signed nothing", PublicKey: testKeys()["ed"].Public(), Audience: "nobody"})
	v := testVerifier(TokenConfig{Secret: testSecret})
	f.Fuzz(func(t *testing.T, token string, claims []byte) {
		if got, err := other.connection(t.Context(), token); err == nil {
			t.Fatalf("%q was good: %+v", token, got)
		}
		text := must(jwt.New(jwt.SigningMethodHS256).SigningString())
		head, _, _ := strings.Cut(text, ".")
		text = head + "." + jwt.New(jwt.SigningMethodHS256).EncodeSegment(claims)
		sig := must(jwt.SigningMethodHS256.Sign(text, []byte(testSecret)))
		c, err := v.connection(t.Context(), text+"."+jwt.New(jwt.SigningMethodHS256).EncodeSegment(sig))
		if err != nil {
			return
		}
		if len(c.Info) > 0 && (!json.Valid(c.Info) || strings.ContainsAny(string(c.Info), "\r\n")) || c.raw != string(claims) {
			t.Fatalf("%q became %+v", claims, c)
		}
		if c.ExpiresAt != nil {
			ttl(c.ExpiresAt.Time)
		}
	})
}

const noneKey = jwt.UnsafeAllowNoneSignatureType
