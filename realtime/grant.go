package realtime

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/centrifugal/protocol"
)

// grant is what a client that may subscribe gets with it.
type grant struct {
	expires  time.Time // of the token or the hook's word; zero for never
	token    bool      // it is a token's, which the client can renew
	judged   time.Time // when the database must be asked again; zero for never
	options  SubscribeOptions
	override override // what a hook changes of the channel's options
	server   bool     // the server made the subscription, not the client
}

// due is when a subscription is over, unless something renews it. A client that must see to it itself gets
// some more time; the hooks are asked at once. The caller holds shard.mu.
func (sub *subscription) due() time.Time {
	expires := sub.expires
	if expires.IsZero() {
		return sub.judged
	}
	if told, _ := sub.client.tellsOf(expires, sub.token); told {
		expires = expires.Add(expiredLeeway * time.Second)
	}
	if sub.judged.IsZero() || expires.Before(sub.judged) {
		return expires
	}
	return sub.judged
}

// maySubscribe decides whether the client may subscribe to a channel, with the token if there is one. A token
// must be good wherever it is given. Without one, "$" channels and closed namespaces are nobody's, "#" channels
// name their users, and the subscribe hook must agree where the namespace has it; its yes opens a namespace
// that is closed otherwise, but no "$" and no other user's "#" channel. Where the namespace says so, the
// database must agree in any case; there its yes opens what otherwise needs a token.
func (c *client) maySubscribe(ctx context.Context, channel string, req *protocol.SubscribeRequest) (g grant, err error) {
	if c.operator {
		return g, nil
	}
	o := c.node.cfg.Namespaces.of(channel)
	if req.Token != "" {
		claims, err := c.subscriptionToken(ctx, channel, req.Token)
		if err != nil {
			return g, err
		}
		g.options.Info, g.token = claims.Info, true
		if claims.ExpiresAt != nil {
			g.expires = claims.ExpiresAt.Time
		}
	} else {
		closed := strings.HasPrefix(channel, "$") || !o.AllowSubscribeForClient && !o.SubscribeProxy
		if closed && !o.Authorize || c.user == "" && !o.AllowSubscribeForAnonymous || !namesUser(channel, c.user) {
			return g, ErrPermissionDenied
		}
		if o.SubscribeProxy {
			if g, err = c.askSubscribe(ctx, channel, req.Data); err != nil {
				return g, err
			}
		}
	}
	return g, c.judge(ctx, channel, o, &g)
}

// judge asks the database about a subscription, if it is the one who decides.
func (c *client) judge(ctx context.Context, channel string, o ChannelOptions, g *grant) error {
	if !o.Authorize {
		return nil
	}
	until, err := c.node.authorizer.ask(ctx, c.identity, channel, actionSubscribe)
	if err != nil {
		return err
	}
	g.judged = until
	if soonest := time.Now().Add(authorizeAgain); until.Before(soonest) {
		g.judged = soonest
	}
	return nil
}

// mayRead decides on a channel's history and presence, beyond what its options say.
func (c *client) mayRead(ctx context.Context, channel string, o ChannelOptions) error {
	if !o.Authorize {
		return nil
	}
	_, err := c.node.authorizer.ask(ctx, c.identity, channel, actionSubscribe)
	return err
}

// mayPublish decides whether the client may publish a message, now. The database and the publish hook must
// both agree where the namespace has them; either's yes opens what otherwise needs an option. The hook, which
// may change the message, comes last.
func (c *client) mayPublish(ctx context.Context, m *Message) error {
	if c.operator {
		return ErrPermissionDenied
	}
	o := c.node.cfg.Namespaces.of(m.Channel)
	allowed := o.Authorize || o.PublishProxy || o.AllowPublishForClient || o.AllowPublishForSubscriber && c.isSubscribed(m.Channel)
	if !allowed || c.user == "" && !o.AllowPublishForAnonymous {
		return ErrPermissionDenied
	}
	if !c.mayPublishNow(m.Channel, o) {
		return ErrTooManyRequests
	}
	if o.Authorize {
		if _, err := c.node.authorizer.ask(ctx, c.identity, m.Channel, actionPublish); err != nil {
			return err
		}
	}
	if o.PublishProxy {
		return c.askPublish(ctx, m)
	}
	return nil
}

// subscriptionToken checks a token for a channel. What is wrong with it is in the log, not in the answer.
func (c *client) subscriptionToken(ctx context.Context, channel, token string) (*subscriptionClaims, error) {
	claims, err := c.node.verifier.subscription(ctx, strings.Clone(token), c.user, channel)
	if err == nil && c.node.revocations.refuse(c.user, issuedAt(&claims.RegisteredClaims)) {
		err = ErrTokenExpired // the connection has a newer one, and can get a newer one of these
	}
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return claims, err
	}
	c.node.logger.Info("a client's subscription token was refused", "client", c.id, "channel", channel, "error", err)
	return nil, ErrPermissionDenied
}

// namesUser reports whether a channel is for everybody, or names the user behind its "#".
func namesUser(channel, user string) bool {
	_, users, limited := strings.Cut(channel, "#")
	if !limited {
		return true
	}
	for u := range strings.SplitSeq(users, ",") {
		if u == user && u != "" {
			return true
		}
	}
	return false
}

// ttl is how a client is told when something ends: in seconds, at least one.
func ttl(ends time.Time) (expires bool, seconds uint32) {
	if ends.IsZero() {
		return false, 0
	}
	return true, uint32(min(max(1, time.Until(ends).Seconds()), math.MaxUint32))
}
