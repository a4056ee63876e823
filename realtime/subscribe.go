package realtime

import (
	"context"
	"errors"
	"strings"

	"github.com/centrifugal/protocol"
)

// maxChannelsPerClient bounds a client's subscriptions.
const maxChannelsPerClient = 1000

// A subscription hears everything on a channel from a known position on, without a hole, whoever makes it:
// join adds it to the hub, where what arrives is held back, and reads the past from the log up to where it
// joined; begin hands on the reply, what was held, and from there on everything as it comes.

// subscribe is the client's own wish.
func (c *client) subscribe(ctx context.Context, cmd *protocol.Command) *Disconnect {
	result, sub, err := c.subscribeTo(ctx, cmd.Subscribe)
	if err != nil {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: c.errorFor(err).reply()})
		return nil
	}
	sub.hears = cmd.Subscribe.JoinLeave // nobody reads it before begin
	if !c.begin(&protocol.Reply{Id: cmd.Id, Subscribe: result}, sub) {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: ErrInternal.reply()})
	}
	return nil
}

func (c *client) subscribeTo(ctx context.Context, req *protocol.SubscribeRequest) (*protocol.SubscribeResult, *subscription, error) {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return nil, nil, ErrBadRequest.With(why)
	}
	g, err := c.maySubscribe(ctx, channel, req.Token)
	if err != nil {
		return nil, nil, err
	}
	return c.join(ctx, channel, g, sinceOf(req))
}

// sinceOf is the position that a client wants to go on from; nil if it begins anew.
func sinceOf(req *protocol.SubscribeRequest) *Position {
	if req == nil || !req.Recover {
		return nil
	}
	return &Position{Offset: req.Offset, Epoch: strings.Clone(req.Epoch)}
}

// join adds the subscription and reads its past.
func (c *client) join(ctx context.Context, channel string, g grant, since *Position) (*protocol.SubscribeResult, *subscription, error) {
	o := c.node.cfg.Namespaces.of(channel)
	sub, at, err := c.register(channel, g)
	if err != nil {
		return nil, nil, err
	}
	r := &protocol.SubscribeResult{Data: protocol.Raw(g.options.Data)}
	r.Expires, r.Ttl = ttl(g.expires)
	if o.Ephemeral || !o.Recovery {
		return r, sub, nil
	}
	r.Recoverable, r.Positioned, r.Epoch, r.Offset = true, true, at.Epoch, at.Offset
	if since == nil {
		return r, sub, nil
	}
	r.WasRecovering = true
	if *since == at {
		r.Recovered = true
		return r, sub, nil
	}
	missed, err := c.node.past(ctx, channel, *since, at.Offset)
	switch {
	case errors.Is(err, ErrUnrecoverable):
		return r, sub, nil // from here on, and the client is told that something is missing
	case err != nil:
		c.leave(sub)
		return nil, nil, err
	}
	r.Recovered = true
	for i := range missed {
		r.Publications = append(r.Publications, missed[i].publication())
	}
	if since.Offset > at.Offset {
		// The client comes from a replica that was ahead of this one: it has what is yet to arrive here.
		r.Offset = since.Offset
		c.shard.mu.Lock()
		sub.from = since.Offset
		c.shard.mu.Unlock()
	}
	return r, sub, nil
}

// begin makes subscriptions live: the reply that tells of them, then what was held. It reports false, and has
// sent nothing, if one is not whole: while we read, the log went back, or more came than can be held, or the
// client left, or the server unsubscribed it.
func (c *client) begin(reply *protocol.Reply, subs ...*subscription) bool {
	frame := c.format.encode(reply)
	s := c.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range subs {
		if !sub.lost {
			continue
		}
		for _, sub := range subs {
			s.unsubscribe(sub)
		}
		return false
	}
	c.connected = true
	c.sendReply(frame)
	for _, sub := range subs {
		s.release(sub)
	}
	return true
}

// register adds a subscription that holds back what comes, and returns the position that it begins at.
func (c *client) register(channel string, g grant) (*subscription, Position, error) {
	s := c.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.epoch == "":
		return nil, Position{}, ErrInternal.With("the log has not been reached yet")
	case c.subs[channel] != nil:
		return nil, Position{}, ErrAlreadySubscribed
	case len(c.subs) >= maxChannelsPerClient:
		return nil, Position{}, ErrLimitExceeded.With("too many channels on one connection")
	}
	sub := &subscription{client: c, channel: channel, from: s.at, info: g.options.Info, server: g.server, judged: g.judged}
	if len(sub.info) > 0 {
		c.showsInfo.Store(true)
	}
	s.subscribe(sub)
	s.expiring.set(sub, g.ends())
	return sub, Position{Offset: s.at, Epoch: s.epoch}, nil
}

func (c *client) leave(subs ...*subscription) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	for _, sub := range subs {
		c.shard.unsubscribe(sub)
	}
}

// subRefresh takes a new token for a subscription.
func (c *client) subRefresh(ctx context.Context, req *protocol.SubRefreshRequest) (*protocol.SubRefreshResult, error) {
	if req.Type != 0 {
		return nil, ErrNotAvailable
	}
	if req.Token == "" {
		return nil, ErrBadRequest.With("a token is missing")
	}
	channel := strings.Clone(req.Channel)
	claims, err := c.subscriptionToken(ctx, channel, req.Token)
	if err != nil {
		return nil, err
	}
	g := grant{}
	if claims.ExpiresAt != nil {
		g.expires = claims.ExpiresAt.Time
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	sub := c.subs[channel]
	if sub == nil || !sub.live {
		return nil, ErrPermissionDenied.With("not subscribed to the channel")
	}
	g.judged = sub.judged // a token renews itself, not the database's answer
	if sub.info = claims.Info; len(sub.info) > 0 {
		c.showsInfo.Store(true)
	}
	c.shard.expiring.set(sub, g.ends())
	r := &protocol.SubRefreshResult{}
	r.Expires, r.Ttl = ttl(g.expires)
	return r, nil
}
