package realtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxTokenBytes bounds a token before anything parses it.
const maxTokenBytes = 16 << 10

// Claims are what a connection token says of its client, as Centrifugo's tokens do.
type Claims struct {
	jwt.RegisteredClaims                 // sub is the user, exp when the token ends
	Info                 json.RawMessage `json:"info,omitempty"` // shown to others beside what the client publishes
}

// SignToken makes a connection token for user that is good for ttl; 0 means for ever, and a negative
// one is over.
func SignToken(secret, user string, ttl time.Duration) (string, error) {
	c := Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: user, IssuedAt: jwt.NewNumericDate(time.Now())}}
	if ttl != 0 {
		c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(ttl))
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(secret))
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return s, nil
}

// verifyToken checks a connection token. It returns ErrTokenExpired for one that was good once, for which
// the client should get a new one, and any other error for one that never was.
func verifyToken(secret, token string) (*Claims, error) {
	if secret == "" {
		return nil, errors.New("tokens are not accepted")
	}
	if len(token) > maxTokenBytes {
		return nil, errors.New("the token is too long")
	}
	var c Claims
	// The algorithm is ours to choose, never the token's.
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, ErrTokenExpired
	case err != nil:
		return nil, fmt.Errorf("verify the token: %w", err)
	}
	if len(c.Info) > 0 {
		if c.Info, _ = compact(c.Info); c.Info == nil {
			return nil, errors.New("the token's info is not valid JSON")
		}
	}
	return &c, nil
}
