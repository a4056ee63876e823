package realtime

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/centrifugal/protocol"
)

// connect says who is there, by a token or the connect hook, and makes the subscriptions that either names.
func (c *client) connect(ctx context.Context, cmd *protocol.Command) *Disconnect {
	if cmd.Id == 0 {
		return badRequest("a command needs an id")
	}
	if c.isConnected() {
		return badRequest("connected already")
	}
	a, err := c.identify(ctx, cmd.Connect)
	var d *Disconnect
	if errors.As(err, &d) {
		return d
	}
	if err != nil {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: c.errorFor(err).reply()})
		return nil
	}
	c.enter(ctx)
	if !c.admitted(a.claims) {
		return disconnectUserLimit
	}
	result := &protocol.ConnectResult{Client: c.id, Version: c.node.cfg.Version, Ping: pingInterval, Pong: true, Data: protocol.Raw(a.data)}
	if c.session != "" {
		result.Session, result.Node = c.session, c.node.id
	}
	if result.Expires, result.Ttl, d = c.accept(cmd.Connect.Token != "", a.claims); d != nil {
		return d
	}
	if c.format == events {
		a.subs = nil // one stream brings one channel
	}
	var subs []*subscription
	if result.Subs, subs, err = c.joinAll(ctx, a.subs, cmd.Connect.Subs); err != nil {
		if !errors.Is(err, context.Canceled) {
			c.node.logger.Warn("a client's channels could not be joined", "client", c.id, "error", err)
		}
		return disconnectInsufficient
	}
	c.headers = c.node.hooks.keep(c.headers, true)
	if !c.begin(&protocol.Reply{Id: cmd.Id, Connect: result}, subs...) {
		return disconnectInsufficient
	}
	if !c.operator { // who is nobody of the team's application
		c.node.webhooks.connected(c)
	}
	return nil
}

// enter makes the connection one for which this replica works. If it rests, it wakes first: not for whoever only opens
// a connection, or has no right to.
func (c *client) enter(ctx context.Context) {
	if !c.known {
		c.known = true
		c.node.known.Add(1)
		c.node.rest.enter(1)
		c.node.presence.connected()
	}
	c.node.rest.wait(ctx)
}

// exit is for the end of a connection that entered.
func (c *client) exit() {
	c.node.known.Add(-1)
	c.node.rest.enter(-1)
}

// admitted takes the connection as its user's, unless the user has as many as one may have.
func (c *client) admitted(claims *Claims) bool {
	if limit := c.node.cfg.MaxUserConnections; limit > 0 && claims.Subject != "" {
		if !c.node.users.enter(claims.Subject, limit) {
			return false
		}
		c.counted = true
	}
	c.user, c.operator = claims.Subject, claims.operator
	return true
}

// authenticate says who a token's client is. Without a token it is nobody, where that is allowed.
func (c *client) authenticate(ctx context.Context, token string) (*Claims, error) {
	if token == "" {
		if c.node.cfg.AllowAnonymous {
			return &Claims{}, nil
		}
		return nil, disconnectInvalidToken.with("a token is required")
	}
	claims, err := c.node.verifier.connection(ctx, strings.Clone(token))
	if e := (*Error)(nil); errors.As(err, &e) {
		return nil, err // expired, or nobody can tell now
	}
	if err != nil {
		c.node.logger.Info("a client's token was refused", "client", c.id, "error", err)
		return nil, disconnectInvalidToken
	}
	return claims, nil
}

// accept takes the connection as good until its token ends, and returns what the client is told of that.
func (c *client) accept(hasToken bool, claims *Claims) (expires bool, seconds uint32, d *Disconnect) {
	c.show(claims.Info)
	if c.node.authorizer != nil {
		c.identity = identityOf(c.user, claims.raw)
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	c.shard.identified(c)
	c.expires, c.hasToken, c.issued = time.Time{}, hasToken, issuedAt(&claims.RegisteredClaims)
	c.named = hasToken || claims.IssuedAt != nil
	// After the user's connections include this one: a revocation now either finds it or is found here.
	if c.named && c.node.revocations.refuse(c.user, c.issued) {
		return false, 0, disconnectInvalidToken.with("revoked")
	}
	if claims.ExpiresAt != nil {
		c.expires = claims.ExpiresAt.Time
	}
	expires, seconds = c.tells(c.expires)
	return expires, seconds, nil
}

// refresh takes a new token for the same user.
func (c *client) refresh(ctx context.Context, req *protocol.RefreshRequest) (*protocol.RefreshResult, error) {
	if req.Token == "" {
		return nil, badRequest("refresh needs a token")
	}
	claims, err := c.authenticate(ctx, req.Token)
	if err != nil {
		return nil, err
	}
	if claims.Subject != c.user || claims.operator != c.operator {
		return nil, disconnectInvalidToken.with("another user's token")
	}
	r := &protocol.RefreshResult{Client: c.id, Version: c.node.cfg.Version}
	var d *Disconnect
	if r.Expires, r.Ttl, d = c.accept(true, claims); d != nil {
		return nil, d
	}
	return r, nil
}

// publish appends what the client sends, if it may.
func (c *client) publish(ctx context.Context, req *protocol.PublishRequest) error {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	info := &Info{User: c.user, Client: c.id, ConnInfo: c.connInfo(), ChanInfo: c.infoOn(channel)}
	m := Message{Channel: channel, Data: bytes.Clone(req.Data), Meta: Meta{Info: info}}
	if err := c.mayPublish(ctx, &m); err != nil {
		return err
	}
	_, err := c.node.Publish(ctx, m)
	return err
}

// connInfo is what others are shown of the client.
func (c *client) connInfo() []byte {
	if info := c.info.Load(); info != nil {
		return *info
	}
	return nil
}

func (c *client) show(info []byte) {
	if len(info) == 0 {
		c.info.Store(nil)
		return
	}
	c.info.Store(&info)
}

// history pages through a channel's past. Who may follow the channel may read it.
func (c *client) history(ctx context.Context, req *protocol.HistoryRequest) (*protocol.HistoryResult, error) {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return nil, ErrBadRequest.With(why)
	}
	o := c.node.cfg.Namespaces.of(channel)
	if !o.AllowHistoryForSubscriber || !c.isSubscribed(channel) {
		return nil, ErrPermissionDenied
	}
	if err := c.mayRead(ctx, channel, o); err != nil {
		return nil, err
	}
	f := HistoryFilter{Limit: int(req.Limit), Reverse: req.Reverse}
	if req.Since != nil {
		f.Since = &Position{Offset: req.Since.Offset, Epoch: strings.Clone(req.Since.Epoch)}
	}
	h, err := c.node.History(c.waiting(ctx), channel, f)
	if err != nil {
		return nil, err
	}
	r := &protocol.HistoryResult{Epoch: h.Position.Epoch, Offset: h.Position.Offset}
	for i := range h.Messages {
		r.Publications = append(r.Publications, h.Messages[i].publication())
	}
	return r, nil
}

func (c *client) isSubscribed(channel string) bool {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	sub := c.subs[channel]
	return sub != nil && sub.live
}

// infoOn is what the client's subscription to a channel shows of it to others.
func (c *client) infoOn(channel string) []byte {
	if !c.showsInfo.Load() {
		return nil // as nearly always: no publish waits for the shard
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if sub := c.subs[channel]; sub != nil {
		return sub.info
	}
	return nil
}

func (c *client) unsubscribe(channel string) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if sub := c.subs[channel]; sub != nil {
		c.shard.unsubscribe(sub)
	}
}
