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
		if r.info, err = pick(result.Info, result.B64Info); err == nil {
			r.meta, err = pick(result.Meta, "")
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
			c.info = r.info
		}
		if r.meta != nil {
			c.meta = r.meta
		}
	}()
}

// expireWith takes note of when a new subscription ends. The caller holds shard.mu.
func (c *client) expireWith(sub *subscription) {
	if !sub.expires.IsZero() && (c.subsExpire.IsZero() || sub.expires.Before(c.subsExpire)) {
		c.subsExpire = sub.expires
	}
}

// expireSubs ends the subscriptions that have expired, or asks the sub_refresh hook. Without one the client
// was told, and has some time to send a new token. The caller holds shard.mu.
func (c *client) expireSubs(now time.Time) {
	h := c.node.hooks.subRefresh
	c.subsExpire = time.Time{}
	for _, sub := range c.subs {
		switch {
		case sub.expires.IsZero() || sub.asking:
			continue
		case now.Before(sub.expires):
		case h != nil:
			c.startSubRefresh(h, sub)
			continue
		case now.After(sub.expires.Add(expiredLeeway * time.Second)):
			c.endSub(sub)
			continue
		}
		c.expireWith(sub)
	}
}

// endSub ends a subscription that has expired. The caller holds shard.mu.
func (c *client) endSub(sub *subscription) {
	sub.lost = true // should its past still be read
	if sub.server {
		c.disconnect(disconnectSubExpired)
		return
	}
	if sub.live {
		c.send(c.format.encode(unsubscribed(sub.channel, unsubscribeExpired, unsubscribeExpiredReason)))
		c.shard.unsubscribe(sub)
	}
}

// startSubRefresh asks the sub_refresh hook whether a subscription goes on. The caller holds shard.mu.
func (c *client) startSubRefresh(h *hook, sub *subscription) {
	sub.asking = true
	c.node.clients.Add(1) // as in startRefresh
	go func() {
		defer c.node.clients.Done()
		r := c.renew(h, hookRequest{User: &c.user, Channel: sub.channel})
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		sub.asking = false
		switch {
		case c.subs[sub.channel] != sub:
		case r.disconnect != nil:
			c.disconnect(r.disconnect)
		case r.over:
			c.endSub(sub)
		default:
			if sub.expires = r.expires; r.info != nil {
				sub.info = r.info
			}
			c.expireWith(sub)
		}
	}()
}
