package realtime

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Bounds of a key set.
const (
	jwksTimeout   = 5 * time.Second
	jwksMaxBytes  = 1 << 20
	jwksMaxKeys   = 100
	jwksRedirects = 3
	jwksMaxAge    = 10 * time.Minute // then a key that was withdrawn is noticed
	jwksCooldown  = 30 * time.Second // between two requests, whatever tokens ask for
)

var (
	errUnknownKey      = errors.New("the token's key is not in the key set")
	errKeysUnavailable = ErrInternal.With("the token's key cannot be looked up now")
)

// jwks is the JSON Web Key Set at one address, which is the configuration's: nothing in a token says where
// to look. It is read when a token needs it and what is known is older than jwksMaxAge, or lacks the token's
// key; never more often than jwksCooldown. While its server is away, what was known stays good. It has no
// goroutine: who needs the set fetches it, and everybody else who does waits for that.
type jwks struct {
	from   string
	client *http.Client
	logger *slog.Logger
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex
	keys    []jwksKey // guarded by mu, like all below
	fetched time.Time // when keys were read
	tried   time.Time // when somebody last set out to read them
}

type jwksKey struct {
	kid, alg string // alg "" for any that the key can
	key      crypto.PublicKey
}

func newJWKS(from string, logger *slog.Logger) *jwks {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // a request in ten minutes needs no connection, and no goroutines, in between
	return &jwks{from: from, logger: logger, now: time.Now, client: &http.Client{Transport: t, Timeout: jwksTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme || len(via) > jwksRedirects {
				return errors.New("the key set's server redirects elsewhere")
			}
			return nil
		}}}
}

// find returns the key of that name that verifies alg. It returns errUnknownKey if the set, as it is now,
// has none, and a temporary *Error if nobody can tell.
func (j *jwks) find(ctx context.Context, kid, alg string) (crypto.PublicKey, error) {
	if kid == "" {
		return nil, errors.New("the token names no key (kid)")
	}
	key, good := j.known(kid, alg)
	if good {
		return key, nil
	}
	// The caller may leave; the others wait for the same answer.
	_, err, _ := j.flight.Do("", func() (any, error) { return nil, j.refresh(context.WithoutCancel(ctx)) })
	if fresh, _ := j.known(kid, alg); fresh != nil {
		return fresh, nil
	}
	if err != nil {
		return nil, errKeysUnavailable
	}
	return nil, errUnknownKey
}

// known looks into what was read, and reports whether that answers.
func (j *jwks) known(kid, alg string) (key crypto.PublicKey, good bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, k := range j.keys {
		if k.kid == kid && (k.alg == "" || k.alg == alg) && slices.Contains(algorithms(k.key), alg) {
			return k.key, j.now().Sub(j.fetched) < jwksMaxAge
		}
	}
	return nil, false
}

var errCooldown = errors.New("the key set was read a moment ago")

// refresh reads the set, unless that was tried a moment ago.
func (j *jwks) refresh(ctx context.Context) error {
	j.mu.Lock()
	now := j.now()
	if !j.tried.IsZero() && now.Sub(j.tried) < jwksCooldown {
		j.mu.Unlock()
		return errCooldown
	}
	j.tried = now
	j.mu.Unlock()
	keys, err := j.fetch(ctx)
	if err != nil {
		j.logger.Warn("the key set could not be read, going on with what is known", "error", err)
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.keys, j.fetched = keys, now
	return nil
}

func (j *jwks) fetch(ctx context.Context) ([]jwksKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, j.from, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the key set: %w", err)
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := j.client.Do(r)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err // without the address, whose query may hold a key
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the key set's server answered %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, jwksMaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	if len(body) > jwksMaxBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", jwksMaxBytes)
	}
	return parseJWKS(body)
}

// parseJWKS returns the keys that can verify tokens. Others may be in the set: it serves more than us.
func parseJWKS(body []byte) ([]jwksKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	var keys []jwksKey
	for _, raw := range set.Keys {
		var k jwk
		if json.Unmarshal(raw, &k) != nil || k.Kid == "" || len(keys) == jwksMaxKeys {
			continue
		}
		if key, err := k.public(); err == nil {
			keys = append(keys, jwksKey{kid: k.Kid, alg: k.Alg, key: key})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set has no key with a kid that verifies signatures")
	}
	return keys, nil
}
