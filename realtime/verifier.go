package realtime

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxTokenBytes bounds a token before anything parses it.
const maxTokenBytes = 16 << 10

// tokenLeeway is how far the clock of who signs tokens may be from ours.
const tokenLeeway = 5 * time.Second

// TokenConfig says whose tokens are accepted. Each kind of key has its own algorithms, so several may be set;
// a token whose algorithm belongs to none of them is refused. The zero value accepts no token.
type TokenConfig struct {
	Secret    string           // HS256, HS384, HS512
	PublicKey crypto.PublicKey // of ParsePublicKey: RS*, PS*, ES* or EdDSA
	Audience  string           // if set, a token must name it
	Issuer    string           // if set, a token must name it

	// Addresses of JSON Web Key Sets: RS*, PS*, ES* and EdDSA, the key chosen by the token's kid. Each verifies the tokens
	// of one issuer, and of no other, whatever their kid; that of "" those of every other.
	KeySets map[string]string

	OperatorKey []byte // signs and verifies the tokens of operators, and no others; empty for none
}

// verifier checks tokens. The algorithm is the configuration's and the key's to choose, never the token's: a
// secret verifies HMAC alone, a public key only what its own kind signs.
//
// It is golang-jwt with a reader of key sets of our own. The libraries that bring one (keyfunc, jwx) refresh
// it on a goroutine of theirs, which an idle replica must not have, and would leave us the same work: the
// bounds, the redirects, the cooldown.
type verifier struct {
	secret    []byte
	operators []byte // the key of operators
	public    crypto.PublicKey
	keys      map[string]*jwks // by issuer, "" for every one
	parser    *jwt.Parser
}

func newVerifier(cfg TokenConfig, logger *slog.Logger) *verifier {
	v := &verifier{secret: []byte(cfg.Secret), public: cfg.PublicKey, operators: cfg.OperatorKey, keys: map[string]*jwks{}}
	var methods []string
	if cfg.Secret != "" {
		methods = append(methods, "HS256", "HS384", "HS512")
	}
	if len(cfg.OperatorKey) > 0 {
		methods = append(methods, "HS256")
	}
	if cfg.PublicKey != nil {
		methods = append(methods, algorithms(cfg.PublicKey)...)
	}
	for issuer, url := range cfg.KeySets {
		v.keys[issuer] = newJWKS(url, logger)
	}
	if len(v.keys) > 0 {
		methods = append(methods, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
	}
	if len(methods) == 0 {
		methods = []string{""} // golang-jwt takes an empty list for "any"
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(methods), jwt.WithLeeway(tokenLeeway)}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	v.parser = jwt.NewParser(options...)
	return v
}

// verify checks a token and fills claims. It returns ErrTokenExpired for one that was good once, for which the
// client should get a new one; a temporary *Error if nobody can tell now; and any other error for one that
// never was good.
func (v *verifier) verify(ctx context.Context, token string, claims jwt.Claims) error {
	if len(token) > maxTokenBytes {
		return errors.New("the token is too long")
	}
	var unsure error // the key could not be looked up
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		key, err := v.key(ctx, t)
		if e := (*Error)(nil); errors.As(err, &e) {
			unsure = e
		}
		if key == nil {
			return nil, err
		}
		return key, nil
	})
	switch {
	case err == nil:
		return nil
	case unsure != nil && (errors.Is(err, jwt.ErrTokenSignatureInvalid) || errors.Is(err, jwt.ErrTokenUnverifiable)):
		return unsure
	case onlyExpired(err):
		return ErrTokenExpired
	}
	return fmt.Errorf("verify the token: %w", err)
}

// onlyExpired tells a token whose time is what is wrong from one that was never good, such as one for another
// audience that has also ended.
func onlyExpired(err error) bool {
	for _, other := range []error{jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenNotValidYet} {
		if errors.Is(err, other) {
			return false
		}
	}
	return errors.Is(err, jwt.ErrTokenExpired)
}

// key returns the key that a token must be signed with. With a key it may still return an error: another
// could not be looked up, which may be the right one.
func (v *verifier) key(ctx context.Context, t *jwt.Token) (any, error) {
	if _, ok := t.Method.(*jwt.SigningMethodHMAC); ok {
		if t.Header["kid"] == operatorKid {
			return v.operator(t)
		}
		if len(v.secret) == 0 {
			return nil, errors.New("no secret is configured")
		}
		return v.secret, nil
	}
	err := errors.New("no key is configured for the token's algorithm")
	alg := t.Method.Alg()
	if keys := v.keySet(t.Claims); keys != nil {
		var key crypto.PublicKey
		kid, _ := t.Header["kid"].(string)
		if key, err = keys.find(ctx, kid, alg); err == nil {
			return key, nil
		}
	}
	if v.public != nil && slices.Contains(algorithms(v.public), alg) {
		return v.public, err
	}
	return nil, err
}

// keySet returns the set of a token's issuer. The token is not verified yet: one that names another's issuer is then
// verified with that one's keys.
func (v *verifier) keySet(claims jwt.Claims) *jwks {
	if issuer, err := claims.GetIssuer(); err == nil && issuer != "" && v.keys[issuer] != nil {
		return v.keys[issuer]
	}
	return v.keys[""]
}
