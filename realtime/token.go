package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are what a connection token says of its client, as Centrifugo's tokens do.
type Claims struct {
	jwt.RegisteredClaims                             // sub is the user, exp when the token ends, iat what a revocation looks at
	Info                 json.RawMessage             `json:"info,omitempty"`     // shown to others beside what the client publishes
	Channels             []string                    `json:"channels,omitempty"` // the server subscribes the client to these
	Subs                 map[string]SubscribeOptions `json:"subs,omitempty"`     // and to these, with options
	Channel              string                      `json:"channel,omitempty"`  // only a subscription token has one

	raw      string // the claims as they were signed: JSON
	operator bool   // it is an operator's token
}

// SubscribeOptions are what the server says of a subscription that it makes for a client.
type SubscribeOptions struct {
	Info json.RawMessage `json:"info,omitempty"` // shown to others of the channel
	Data json.RawMessage `json:"data,omitempty"` // given to the client with the subscription
}

// check removes line breaks, which separate replies, and says what is not JSON.
func (o *SubscribeOptions) check() error {
	for name, v := range map[string]*json.RawMessage{"info": &o.Info, "data": &o.Data} {
		if err := tidy(v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func tidy(v *json.RawMessage) error {
	if len(*v) == 0 {
		return nil
	}
	data, why := compact(*v)
	if why != "" {
		return errors.New(why)
	}
	*v = data
	return nil
}

// subscriptionClaims are what a subscription token grants.
type subscriptionClaims struct {
	jwt.RegisteredClaims
	Channel string          `json:"channel"`
	Info    json.RawMessage `json:"info,omitempty"` // shown to others of the channel
}

// SignToken is Sign where there is nothing but a secret.
func SignToken(secret, user string, ttl time.Duration) (string, error) {
	return TokenConfig{Secret: secret}.Sign(user, ttl)
}

// Sign makes a connection token for user, with the secret, that is good for ttl; 0 means for ever, and a
// negative one is over.
func (cfg TokenConfig) Sign(user string, ttl time.Duration) (string, error) {
	if cfg.Secret == "" {
		return "", errors.New("sign the token: there is no secret")
	}
	return signed(jwt.NewWithClaims(jwt.SigningMethodHS256, cfg.claims(user, ttl)), []byte(cfg.Secret))
}

// claims are those that our own verifier accepts.
func (cfg TokenConfig) claims(user string, ttl time.Duration) *Claims {
	c := &Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: user, Issuer: cfg.Issuer, IssuedAt: jwt.NewNumericDate(time.Now())}}
	if cfg.Audience != "" {
		c.Audience = jwt.ClaimStrings{cfg.Audience}
	}
	if ttl != 0 {
		c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(ttl))
	}
	return c
}

func signed(t *jwt.Token, key []byte) (string, error) {
	s, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return s, nil
}

// connection checks a connection token. Its errors are verify's.
func (v *verifier) connection(ctx context.Context, token string) (*Claims, error) {
	var c Claims
	if err := v.verify(ctx, token, &c); err != nil {
		return nil, err
	}
	if c.Channel != "" {
		return nil, errors.New("this is a subscription token")
	}
	if why := checkUser(c.Subject); why != "" {
		return nil, errors.New(why)
	}
	if err := tidy(&c.Info); err != nil {
		return nil, fmt.Errorf("the token's info: %w", err)
	}
	if len(c.Channels)+len(c.Subs) > maxChannelsPerClient {
		return nil, errors.New("the token has too many channels")
	}
	for channel, o := range c.Subs {
		if err := o.check(); err != nil {
			return nil, fmt.Errorf("the token's subs, %s: %w", channel, err)
		}
		c.Subs[channel] = o
	}
	for _, channel := range c.Channels {
		if _, ok := c.Subs[channel]; !ok {
			if c.Subs == nil {
				c.Subs = map[string]SubscribeOptions{}
			}
			c.Subs[channel] = SubscribeOptions{}
		}
	}
	for channel := range c.Subs {
		if why := checkChannel(channel); why != "" {
			return nil, errors.New("the token's channels: " + why)
		}
	}
	c.raw = payload(token)
	return &c, nil
}

// maxUser bounds a user's name, in bytes.
const maxUser = 1024

// checkUser says what is wrong with a user's name, or "". One that the database cannot store would keep
// everybody's presence and events from it.
func checkUser(user string) string {
	switch {
	case len(user) > maxUser:
		return fmt.Sprintf("the user is longer than %d bytes", maxUser)
	case strings.ContainsRune(user, 0):
		return "the user contains a NUL"
	}
	return ""
}

// payload is the claims of a token that has been verified.
func payload(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	b, err := jwt.NewParser().DecodeSegment(body)
	if err != nil {
		return "" // it was decoded a moment ago
	}
	return string(b)
}

// subscription checks a token that grants user a channel. Its errors are verify's.
func (v *verifier) subscription(ctx context.Context, token, user, channel string) (*subscriptionClaims, error) {
	var c subscriptionClaims
	if err := v.verify(ctx, token, &c); err != nil {
		return nil, err
	}
	if c.Channel != channel {
		return nil, errors.New("the token is for another channel")
	}
	if c.Subject != user {
		return nil, errors.New("the token is for another user")
	}
	if err := tidy(&c.Info); err != nil {
		return nil, fmt.Errorf("the token's info: %w", err)
	}
	return &c, nil
}
