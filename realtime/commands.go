package realtime

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/centrifugal/protocol"
)

// connect authenticates the connection.
func (c *client) connect(ctx context.Context, cmd *protocol.Command) *Disconnect {
	if cmd.Id == 0 {
		return badRequest("a command needs an id")
	}
	if c.isConnected() {
		return badRequest("connected already")
	}
	a, err := c.admit(ctx, cmd.Connect)
	var subs []*subscription
	result := &protocol.ConnectResult{Client: c.id, Version: c.node.cfg.Version, Ping: pingInterval, Pong: true}
	if err == nil {
		c.user = a.claims.Subject
		subs, result.Subs, err = c.followAll(ctx, a.subs, cmd.Connect.Subs)
	}
	var d *Disconnect
	if errors.As(err, &d) {
		return d
	}
	if err != nil {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: c.errorFor(err).reply()})
		return nil
	}
	result.Expires, result.Ttl = c.accept(a.claims)
	result.Data = protocol.Raw(a.data)
	c.headers = c.node.hooks.keep(c.headers, true)
	c.node.webhooks.connected(c)
	c.reply(&protocol.Reply{Id: cmd.Id, Connect: result})
	c.releaseAll(subs)
	return nil
}

// authenticate says who a token's client is. Without a token it is nobody, where that is allowed.
func (c *client) authenticate(token string) (*Claims, error) {
	if token == "" {
		if c.node.cfg.AllowAnonymous {
			return &Claims{}, nil
		}
		return nil, disconnectInvalidToken.with("a token is required")
	}
	claims, err := verifyToken(c.node.cfg.TokenSecret, strings.Clone(token))
	if errors.Is(err, ErrTokenExpired) {
		return nil, err
	}
	if err != nil {
		c.node.logger.Info("a client's token was refused", "client", c.id, "error", err)
		return nil, disconnectInvalidToken
	}
	return claims, nil
}

// accept marks the connection as good until its token ends, and returns what the client is told of that.
func (c *client) accept(claims *Claims) (expires bool, ttl uint32) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	c.shard.connected(c)
	if claims.Info != nil {
		c.info = claims.Info
	}
	c.expires = time.Time{}
	if claims.ExpiresAt == nil {
		return false, 0
	}
	c.expires = claims.ExpiresAt.Time
	if c.node.hooks.refresh != nil {
		return false, 0 // we refresh it ourselves, and the client need not know
	}
	return true, ttlOf(c.expires)
}

// refresh takes a new token for the same user.
func (c *client) refresh(req *protocol.RefreshRequest) (*protocol.RefreshResult, error) {
	if req.Token == "" {
		return nil, badRequest("refresh needs a token")
	}
	claims, err := c.authenticate(req.Token)
	if err != nil {
		return nil, err
	}
	if claims.Subject != c.user {
		return nil, disconnectInvalidToken.with("another user's token")
	}
	r := &protocol.RefreshResult{Client: c.id, Version: c.node.cfg.Version}
	r.Expires, r.Ttl = c.accept(claims)
	return r, nil
}

// publish appends what the client sends, if it may.
func (c *client) publish(ctx context.Context, req *protocol.PublishRequest) error {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	m := Message{Channel: channel, Data: bytes.Clone(req.Data), Meta: Meta{Info: &Info{User: c.user, Client: c.id, ConnInfo: c.connInfo()}}}
	o := c.node.cfg.Namespaces.of(channel)
	if o.PublishProxy {
		if err := c.askPublish(ctx, &m); err != nil {
			return err
		}
	} else {
		allowed := o.AllowPublishForClient || o.AllowPublishForSubscriber && c.isSubscribed(channel)
		if !allowed || c.user == "" && !o.AllowPublishForAnonymous {
			return ErrPermissionDenied
		}
	}
	_, err := c.node.Publish(ctx, m)
	return err
}

// connInfo is what others are shown of the client.
func (c *client) connInfo() []byte {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	return c.info
}

// history pages through a channel's past. Who may follow the channel may read it.
func (c *client) history(ctx context.Context, req *protocol.HistoryRequest) (*protocol.HistoryResult, error) {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return nil, ErrBadRequest.With(why)
	}
	if !c.node.cfg.Namespaces.of(channel).AllowHistoryForSubscriber || !c.isSubscribed(channel) {
		return nil, ErrPermissionDenied
	}
	f := HistoryFilter{Limit: int(req.Limit), Reverse: req.Reverse}
	if req.Since != nil {
		f.Since = &Position{Offset: req.Since.Offset, Epoch: strings.Clone(req.Since.Epoch)}
	}
	h, err := c.node.History(ctx, channel, f)
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

func (c *client) unsubscribe(channel string) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if sub := c.subs[channel]; sub != nil {
		c.shard.unsubscribe(sub)
	}
}
