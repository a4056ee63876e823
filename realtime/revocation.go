package realtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// revocations are the moments before which a user's tokens must have been issued to be refused. Each replica
// has all of them: read when its listener connects, and told of each new one. Safe for concurrent use.
type revocations struct {
	mu     sync.RWMutex
	before map[string]time.Time // by user; "" is everybody
}

// add takes note of one. An older one never replaces a newer.
func (r *revocations) add(user string, before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.before == nil {
		r.before = map[string]time.Time{}
	}
	if !before.After(r.before[user]) || !before.After(r.before[""]) {
		return
	}
	r.before[user] = before
	if user == "" { // it says as much as all that are not newer
		maps.DeleteFunc(r.before, func(u string, at time.Time) bool { return u != "" && !at.After(before) })
	}
}

// refuse reports whether a token of user that was issued then has been taken back. One that does not say when
// it was issued has been, as soon as any of the user's was.
func (r *revocations) refuse(user string, issued time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.before) > 0 && (issued.Before(r.before[user]) || issued.Before(r.before[""]))
}

func issuedAt(c *jwt.RegisteredClaims) time.Time {
	if c.IssuedAt == nil {
		return time.Time{}
	}
	return c.IssuedAt.Time
}

// Revoke takes back every token of user that was issued before a moment, on every replica at once and for
// good, and ends the connections that were made with one, or whose user the connect hook named before. It is forgewire.revoke, which SQL may call too.
func (n *Node) Revoke(ctx context.Context, user string, before time.Time) error {
	_, err := n.cfg.Pool.Exec(ctx, "SELECT forgewire.revoke($1, $2)", user, before)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (pg.Code == "22023" || pg.Code == "23514") {
		return ErrBadRequest.With(pg.Message)
	}
	if err != nil {
		return fmt.Errorf("revoke tokens: %w", err)
	}
	return nil
}

// revoked ends the connections of a user, or of everybody, that have a token which was taken back, or that the connect
// hook let in before.
func (n *Node) revoked(user string, before time.Time) {
	n.revocations.add(user, before)
	clients := n.hub.clientsOf(user, "")
	if user == "" {
		clients = n.hub.all()
	}
	for _, c := range clients {
		n.dismissRevoked(c)
	}
}

func (n *Node) dismissRevoked(c *client) {
	c.shard.mu.Lock()
	refused := c.named && n.revocations.refuse(c.user, c.issued)
	c.shard.mu.Unlock()
	if refused {
		c.disconnect(disconnectForced)
	}
}

// readClock compares this replica's clock with the database's. By that a revocation is dated: whom the connect hook named
// must be dated by it too, or a replica's clock that is ahead would keep him in.
func (n *Node) readClock(ctx context.Context, q querier) error {
	before := time.Now()
	var at time.Time
	if err := q.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at); err != nil {
		return fmt.Errorf("read the database's clock: %w", err)
	}
	n.skew.Store(int64(skewOf(before, at, time.Now())))
	return nil
}

// skewOf is how far a clock that said at between two moments of ours is ahead of ours: the least that this allows, so
// nothing where the two may agree.
func skewOf(before, at, after time.Time) time.Duration {
	return max(at.Sub(after), min(at.Sub(before), 0))
}

// now is the time by the database's clock, as far as this replica knows.
func (n *Node) now() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) }

// readRevocations learns of what was revoked while this replica did not listen. LISTEN is in force by now.
func (n *Node) readRevocations(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, "SELECT user_id, before FROM forgewire.revocations")
	if err != nil {
		return fmt.Errorf("read the revocations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var user string
		var before time.Time
		if err = rows.Scan(&user, &before); err != nil {
			return fmt.Errorf("read the revocations: %w", err)
		}
		n.revocations.add(user, before)
	}
	if err = rows.Err(); err != nil {
		return fmt.Errorf("read the revocations: %w", err)
	}
	for _, c := range n.hub.all() {
		n.dismissRevoked(c)
	}
	return nil
}
