package realtime

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"
)

// hookGrace is about how much longer a connection or subscription lives whose refresh hook could not be asked.
// It is spread, so that those that expired together do not all ask again together.
const hookGrace = time.Minute

// hasPassed says whether a time that a hook named is over. Those are in whole seconds.
func hasPassed(t time.Time) bool { return time.Now().Unix() >= t.Unix() }

// refreshResult is the refresh hook's and the sub_refresh hook's.
type refreshResult struct {
	Expired  bool            `json:"expired"`
	ExpireAt int64           `json:"expire_at"`
	Info     json.RawMessage `json:"info"`
	B64Info  string          `json:"b64info"`
	Meta     json.RawMessage `json:"meta"` // of refresh only
}

// renewal is what became of something that had expired.
type renewal struct {
	over       bool
	expires    time.Time // zero for never
	info, meta json.RawMessage
	disconnect *Disconnect
}

// renew asks a hook whether something that has expired goes on. A hook that cannot be asked does not end it,
// for about a minute: a backend that is away must not disconnect everybody. An answer without a result ends it.
func (c *client) renew(h *hook, req hookRequest) renewal {
	result, err := consult[refreshResult](c.node.life, c, h, req)
	var r renewal
	if err == nil && result != nil && !result.Expired {
		r.expires = expiry(result.ExpireAt)
		if r.info, err = pickKept(result.Info, result.B64Info); err == nil {
			r.meta, err = pickKept(result.Meta, "")
		}
		if err != nil {
			err = c.badReply(h, err)
		}
	}
	switch {
	case errors.As(err, &r.disconnect):
		r.over = true
	case err != nil:
		r.expires = time.Now().Add(hookGrace/2 + rand.N(hookGrace))
	case result == nil || result.Expired || !r.expires.IsZero() && hasPassed(r.expires):
		r.over = true
	}
	return r
}

// refreshDue says whether the refresh hook must be asked now. The caller holds shard.mu.
func (c *client) refreshDue(now time.Time) bool {
	return c.node.hooks.refresh != nil && !c.expires.IsZero() && !now.Before(c.expires)
}

// startRefresh asks the refresh hook whether the connection goes on. The caller holds shard.mu.
func (c *client) startRefresh() {
	if c.refreshing {
		return
	}
	c.refreshing = true
	c.node.clients.Add(1) // the client is in its shard, so it counts itself, and this is not the first
	go func() {
		defer c.node.clients.Done()
		defer c.survive()
		r := c.renew(c.node.hooks.refresh, hookRequest{User: &c.user})
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		c.refreshing = false
		switch {
		case r.disconnect != nil:
			c.disconnect(r.disconnect)
			return
		case r.over:
			c.disconnect(disconnectExpired)
			return
		}
		c.expires = r.expires
		if r.info != nil {
			c.show(r.info)
		}
		if r.meta != nil {
			c.meta = r.meta
		}
	}()
}

// tells is what a client is told of its connection's end: nothing where the refresh hook sees to it, and
// nothing where it has no token to renew. The published clients give up for ever when they are told and have
// no way to get one; when they are disconnected as expired they come back, and the connect hook decides anew.
// The caller holds shard.mu.
func (c *client) tells(ends time.Time) (expires bool, seconds uint32) {
	if c.node.hooks.refresh != nil || !c.hasToken {
		return false, 0
	}
	return ttl(ends)
}

// over is when the connection ends: a client that was told gets some time to renew its token. The caller holds
// shard.mu.
func (c *client) over() time.Time {
	if told, _ := c.tells(c.expires); told {
		return c.expires.Add(expiredLeeway * time.Second)
	}
	return c.expires
}

// tellsOf is what a client is told of a subscription's end: as tells, of the sub_refresh hook and a
// subscription token.
func (c *client) tellsOf(ends time.Time, token bool) (expires bool, seconds uint32) {
	if c.node.hooks.subRefresh != nil || !token {
		return false, 0
	}
	return ttl(ends)
}

// renewable reports whether a subscription that is due is one that the sub_refresh hook can renew: not one
// that the database must judge anew, and not one that the hook is being asked about. The caller holds shard.mu.
func (sub *subscription) renewable(now time.Time) bool {
	return sub.client.node.hooks.subRefresh != nil && !sub.asking && !sub.expires.IsZero() && !now.Before(sub.expires) &&
		(sub.judged.IsZero() || now.Before(sub.judged))
}

// startSubRefresh asks the sub_refresh hook whether a subscription goes on. The caller holds shard.mu.
func (c *client) startSubRefresh(sub *subscription) {
	sub.asking = true
	c.shard.expiring.set(sub, sub.judged) // until the hook answers
	c.node.clients.Add(1)                 // as in startRefresh
	go func() {
		defer c.node.clients.Done()
		defer c.survive()
		r := c.renew(c.node.hooks.subRefresh, hookRequest{User: &c.user, Channel: sub.channel})
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		sub.asking = false
		switch {
		case c.subs[sub.channel] != sub:
		case r.disconnect != nil:
			c.disconnect(r.disconnect)
		case r.over:
			c.shard.end(sub, unsubscribeExpired, unsubscribeExpiredReason)
		default:
			if sub.expires = r.expires; r.info != nil {
				sub.info = r.info
				c.showsInfo.Store(true)
			}
			c.shard.expiring.set(sub, sub.due())
		}
	}()
}
