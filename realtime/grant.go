package realtime

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"
)

// grant is what a client that may subscribe gets with it.
type grant struct {
	expires time.Time // of the subscription token, which the client can renew; zero for never
	judged  time.Time // when the database must be asked again; zero for never
	options SubscribeOptions
	server  bool // the server made the subscription, not the client
}

// ends is when the subscription is over, unless something renews it.
func (g *grant) ends() time.Time {
	at := g.judged
	if !g.expires.IsZero() {
		if late := g.expires.Add(expiredLeeway * time.Second); at.IsZero() || late.Before(at) {
			at = late
		}
	}
	return at
}

// maySubscribe decides whether the client may subscribe to a channel, with the token if it is not "". A token
// must be good wherever it is given. Without one, "$" channels and closed namespaces are nobody's, and "#"
// channels name their users. Where the namespace says so, the database must agree in any case; there its yes
// opens what otherwise needs a token.
func (c *client) maySubscribe(ctx context.Context, channel, token string) (g grant, err error) {
	o := c.node.cfg.Namespaces.of(channel)
	if token != "" {
		claims, err := c.subscriptionToken(ctx, channel, token)
		if err != nil {
			return g, err
		}
		g.options.Info = claims.Info
		if claims.ExpiresAt != nil {
			g.expires = claims.ExpiresAt.Time
		}
	} else {
		closed := strings.HasPrefix(channel, "$") || !o.AllowSubscribeForClient
		if closed && !o.Authorize || c.user == "" && !o.AllowSubscribeForAnonymous || !namesUser(channel, c.user) {
			return g, ErrPermissionDenied
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

// mayPublish decides whether the client may publish on a channel, now.
func (c *client) mayPublish(ctx context.Context, channel string, o ChannelOptions) error {
	allowed := o.Authorize || o.AllowPublishForClient || o.AllowPublishForSubscriber && c.isSubscribed(channel)
	if !allowed || c.user == "" && !o.AllowPublishForAnonymous {
		return ErrPermissionDenied
	}
	if !c.mayPublishNow(channel, o) {
		return ErrTooManyRequests
	}
	if !o.Authorize {
		return nil
	}
	_, err := c.node.authorizer.ask(ctx, c.identity, channel, actionPublish)
	return err
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
