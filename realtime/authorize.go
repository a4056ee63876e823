package realtime

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

// What forgewire.authorize is asked.
const (
	actionSubscribe = "subscribe" // also history and presence
	actionPublish   = "publish"
)

// Bounds of asking the database.
const (
	authorizeTimeout = 2 * time.Second
	authorizeAtOnce  = 8      // queries of one replica: a slow function must not take the pool from the publisher
	authorizeAnswers = 20_000 // remembered by one replica; the one that was not used for longest goes
	authorizeMost    = 24 * time.Hour
	authorizeDenied  = time.Second // a refused client that insists does not reach the database each time
	authorizeAgain   = time.Minute // a subscription is judged anew when its answer ends, but not more often
)

// authorizer asks forgewire.authorize, the function in the database that a team writes, and remembers the
// answer for as long as it says. A database that is slow or away allows nothing. Safe for concurrent use.
type authorizer struct {
	pool   *pgxpool.Pool
	seen   *lru.Cache[string, answer]
	flight singleflight.Group
	asking *semaphore.Weighted
}

// answer is allowed where until is not zero.
type answer struct {
	allowed bool
	until   time.Time
}

func newAuthorizer(pool *pgxpool.Pool) (*authorizer, error) {
	seen, err := lru.New[string, answer](authorizeAnswers)
	if err != nil {
		return nil, fmt.Errorf("make the cache of answers: %w", err)
	}
	return &authorizer{pool: pool, seen: seen, asking: semaphore.NewWeighted(authorizeAtOnce)}, nil
}

// identity is whom the database judges. Two tokens of one user may have different claims, which its policies
// may look at, so answers are remembered for both.
type identity struct {
	user   string
	claims string // JSON
	digest [sha256.Size]byte
}

func identityOf(user, claims string) *identity {
	if claims == "" {
		claims = "{}"
	}
	return &identity{user: user, claims: claims, digest: sha256.Sum256([]byte(claims))}
}

// ask returns until when who may do it; ErrPermissionDenied if not; and any other error if nobody can tell.
func (a *authorizer) ask(ctx context.Context, who *identity, channel, action string) (time.Time, error) {
	// The channel has no NUL, the action is ours, and the digest's length is fixed: no two keys are the same.
	key := string(who.digest[:]) + action + "\x00" + channel + "\x00" + who.user
	found, ok := a.seen.Get(key)
	if !ok || time.Now().After(found.until) {
		v, err, _ := a.flight.Do(key, func() (any, error) {
			got, err := a.query(context.WithoutCancel(ctx), who, channel, action) // others wait for it too
			if err == nil {
				a.seen.Add(key, got)
			}
			return got, err
		})
		if err != nil {
			return time.Time{}, err
		}
		found = v.(answer)
	}
	if !found.allowed {
		return time.Time{}, ErrPermissionDenied
	}
	return found.until, nil
}

func (a *authorizer) query(ctx context.Context, who *identity, channel, action string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, authorizeTimeout)
	defer cancel()
	if err := a.asking.Acquire(ctx, 1); err != nil {
		return answer{}, fmt.Errorf("wait to ask forgewire.authorize: %w", err)
	}
	defer a.asking.Release(1)
	var seconds *float64
	now := time.Now() // before: the answer is never older than it says
	err := a.pool.QueryRow(ctx, "SELECT forgewire.ask_authorize($1, $2, $3, $4)", who.claims, who.user, channel, action).Scan(&seconds)
	if err != nil {
		return answer{}, fmt.Errorf("ask forgewire.authorize: %w", err)
	}
	if seconds == nil || math.IsNaN(*seconds) || *seconds < 0 {
		return answer{until: now.Add(authorizeDenied)}, nil
	}
	return answer{allowed: true, until: now.Add(time.Duration(min(*seconds, authorizeMost.Seconds()) * float64(time.Second)))}, nil
}
