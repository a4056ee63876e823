package realtime

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const testSecret = "0123456789abcdef0123456789abcdef"

func TestVerifyToken(t *testing.T) {
	good := must(SignToken(testSecret, "joe", time.Hour))
	expired := must(SignToken(testSecret, "joe", -time.Hour))
	none := must(jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "joe"}).SignedString(jwt.UnsafeAllowNoneSignatureType))
	hs512 := must(jwt.NewWithClaims(jwt.SigningMethodHS512, jwt.MapClaims{"sub": "joe"}).SignedString([]byte(testSecret)))
	_, key, _ := ed25519.GenerateKey(nil)
	eddsa := must(jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": "joe"}).SignedString(key))
	future := must(jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "joe", "nbf": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(testSecret)))
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	for _, c := range []struct {
		name, secret, token string
		expired, ok         bool
	}{
		{"good", testSecret, good, false, true},
		{"expired", testSecret, expired, true, false},
		{"expired and badly signed", "another secret, another secret", expired, false, false},
		{"another secret", "another secret, another secret", good, false, false},
		{"no secret", "", good, false, false},
		{"alg none", testSecret, none, false, false},
		{"another algorithm", testSecret, hs512, false, false},
		{"another kind of key", testSecret, eddsa, false, false},
		{"not yet", testSecret, future, false, false},
		{"no signature", testSecret, head + "." + body + ".", false, false},
		{"another body", testSecret, head + "." + body[:len(body)-2] + "." + sig, false, false},
		{"garbage", testSecret, "garbage", false, false},
		{"dots", testSecret, strings.Repeat(".", 1000), false, false},
		{"too long", testSecret, good + strings.Repeat("x", maxTokenBytes), false, false},
	} {
		claims, err := verifyToken(c.secret, c.token)
		switch {
		case c.ok != (err == nil), c.expired != errors.Is(err, ErrTokenExpired):
			t.Errorf("%s: %v", c.name, err)
		case c.ok && claims.Subject != "joe":
			t.Errorf("%s: %+v", c.name, claims)
		}
	}
}

func FuzzVerifyToken(f *testing.F) {
	f.Add(must(SignToken(testSecret, "joe", time.Hour)))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := verifyToken("a secret that signed nothing", token)
		if err == nil {
			t.Fatalf("%q was good: %+v", token, claims)
		}
	})
}

func TestParseNamespaces(t *testing.T) {
	for _, c := range []struct{ name, text, wrong string }{
		{"nothing", "", ""},
		{"one", `{"namespaces":[{"name":"chat","allow_publish_for_client":true}],"without_namespace":{"allow_publish_for_subscriber":true}}`, ""},
		{"misspelt", "{\n\"namespaces\":[{\"name\":\"chat\",\n\"allow_publish\":true}]}", "allow_publish"},
		{"a line", "{\n\n\"namespaces\":3}", "line 3"},
		{"twice", `{"namespaces":[{"name":"a"},{"name":"a"}]}`, "twice"},
		{"no name", `{"namespaces":[{}]}`, "not a name"},
		{"a colon", `{"namespaces":[{"name":"a:b"}]}`, "not a name"},
		{"rest", `{} {}`, "follows"},
		{"no file", "/does/not/exist", "no such file"},
		{"not JSON", "{", "unexpected EOF"},
	} {
		n, err := ParseNamespaces(c.text)
		switch {
		case c.wrong == "" && err != nil, c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v", c.name, err)
		case c.name == "one" && (!n.of("chat:1").AllowPublishForClient || n.of("other:1").AllowPublishForClient || !n.of("plain").AllowPublishForSubscriber):
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

func TestCompact(t *testing.T) {
	for in, want := range map[string]string{
		"{\n \"a\":\t1 }\r\n":          `{"a":1}`,
		`{"big":12345678901234567890}`: `{"big":12345678901234567890}`,
		`{"a":1,"a":2}`:                `{"a":1,"a":2}`,
		`"\u0000"`:                     `"\u0000"`,
		"":                             "",
		"{":                            "",
		"\"\x00\"":                     "",
		"\"\xff\"":                     "",
		"1 2":                          "",
	} {
		got, why := compact([]byte(in))
		if string(got) != want || (want == "") != (why != "") || want != "" && !json.Valid(got) {
			t.Errorf("%q became %q, %s", in, got, why)
		}
	}
}
