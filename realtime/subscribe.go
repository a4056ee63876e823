package realtime

import (
	"context"
	"errors"
	"strings"
	"time"

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
	if d := (*Disconnect)(nil); errors.As(err, &d) {
		return d
	}
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
	g, err := c.maySubscribe(ctx, channel, req)
	if err != nil {
		return nil, nil, err
	}
	return c.join(ctx, channel, g, req)
}

// join adds the subscription and reads its past, if the client says in req that it has a position.
func (c *client) join(ctx context.Context, channel string, g grant, req *protocol.SubscribeRequest) (*protocol.SubscribeResult, *subscription, error) {
	o := g.override.apply(c.node.cfg.Namespaces.of(channel))
	r, sub, err := c.enlist(channel, g, o, req)
	recovers := req.Recover && o.Recovery
	if err != nil || !r.Positioned || !recovers && !o.CacheChannel {
		return r, sub, err
	}
	since, at := Position{Offset: req.Offset, Epoch: strings.Clone(req.Epoch)}, Position{Offset: r.Offset, Epoch: r.Epoch}
	err = c.catchUp(ctx, sub, since, at, recovers, o, r)
	if err == nil && recovers && !r.Recovered && !o.CacheChannel && req.Flag&flagRejectUnrecovered != 0 {
		err = ErrUnrecoverable
	}
	if err != nil {
		c.leave(sub)
		return nil, nil, err
	}
	return r, sub, nil
}

// enlist adds the subscription, without its past: it asks nobody, so it does not block. The result has the position at which
// the subscription begins, where the client is told of one.
func (c *client) enlist(channel string, g grant, o ChannelOptions, req *protocol.SubscribeRequest) (*protocol.SubscribeResult, *subscription, error) {
	if err := c.mayHave(channel); err != nil {
		return nil, nil, err
	}
	if req.Type != 0 {
		return nil, nil, ErrNotAvailable.With("only stream subscriptions exist")
	}
	view, err := newView(req, o)
	if err != nil {
		return nil, nil, err
	}
	since := Position{Offset: req.Offset, Epoch: strings.Clone(req.Epoch)}
	recovers := req.Recover && o.Recovery && !o.Ephemeral
	sub, at, err := c.register(channel, g, view, since, recovers)
	if err != nil {
		return nil, nil, err
	}
	c.node.joinedBy(channel)
	r := &protocol.SubscribeResult{Data: protocol.Raw(g.options.Data), Delta: view.isDelta()}
	r.Expires, r.Ttl = c.tellsOf(g.expires, g.token)
	r.WasRecovering = req.Recover && !recovers // and did not: nobody knows what was missed
	if o.Ephemeral || !o.Recovery && !req.Positioned && !g.override.positions() {
		return r, sub, nil
	}
	r.Recoverable, r.Positioned, r.Epoch, r.Offset = o.Recovery, true, at.Epoch, at.Offset
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

// flagRejectUnrecovered is the client's wish not to be subscribed where recovery is not possible.
const flagRejectUnrecovered = 1 << 1

// catchUp adds to a subscribe's result what came after since, if the client recovers, or the last message of
// a cache channel. The subscription began at `at`.
func (c *client) catchUp(ctx context.Context, sub *subscription, since, at Position, recovers bool, o ChannelOptions, r *protocol.SubscribeResult) error {
	r.WasRecovering = true
	ctx = c.waiting(ctx)
	var missed []*Message
	var err error
	switch {
	case recovers && since == at:
		r.Recovered = true
	case recovers && (!o.CacheChannel || since.Offset > at.Offset):
		missed, err = c.node.recover(ctx, sub.channel, since, at.Offset, o.kept())
		if r.Recovered = err == nil; errors.Is(err, ErrUnrecoverable) {
			err = nil // from here on, and the client is told that something is missing
		}
	}
	if o.CacheChannel && !r.Recovered && err == nil {
		var m *Message
		m, err = c.node.latest(ctx, sub.channel, at.Offset, o.kept())
		if r.Recovered = m != nil; r.Recovered && !(recovers && since.Epoch == at.Epoch && since.Offset == m.Offset) {
			missed = []*Message{m}
		}
	}
	if err != nil {
		return err
	}
	r.Publications = sub.view.recovered(c.format, missed)
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	// A client may come from a replica that was ahead of this one: it has what is yet to arrive here.
	if sub.from = at.Offset; recovers && r.Recovered && since.Epoch == at.Epoch && since.Offset > at.Offset {
		sub.from = since.Offset
		r.Offset = since.Offset
	}
	return nil
}

// register adds a subscription that holds back what comes, and returns the position that it begins at. While
// it is not known whether the client's own position is good, the later of the two counts: should the log go
// back before that, the subscription is lost.
func (c *client) register(channel string, g grant, v *view, since Position, recovers bool) (*subscription, Position, error) {
	place, err := c.node.reach(channel)
	if err != nil {
		return nil, Position{}, err
	}
	s := c.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.heads[place]
	switch {
	case head.Epoch == "":
		return nil, Position{}, ErrInternal.With("the log has not been reached yet")
	case c.subs[channel] != nil:
		return nil, Position{}, ErrAlreadySubscribed
	case len(c.subs) >= maxChannelsPerClient:
		return nil, Position{}, ErrLimitExceeded.With("too many channels on one connection")
	}
	sub := &subscription{client: c, channel: channel, view: v, from: head.Offset, info: g.options.Info, server: g.server, expires: g.expires, token: g.token, judged: g.judged,
		hidden: g.override.hides() || c.operator}
	if len(sub.info) > 0 {
		c.showsInfo.Store(true)
	}
	if recovers && since.Epoch == head.Epoch {
		sub.from = max(head.Offset, since.Offset)
	}
	s.subscribe(sub)
	s.expiring.set(sub, sub.due())
	return sub, head, nil
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
	var expires time.Time
	if claims.ExpiresAt != nil {
		expires = claims.ExpiresAt.Time
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	sub := c.subs[channel]
	if sub == nil || !sub.live {
		return nil, ErrPermissionDenied.With("not subscribed to the channel")
	}
	if sub.info = claims.Info; len(sub.info) > 0 {
		c.showsInfo.Store(true)
	}
	sub.expires, sub.token = expires, true
	c.shard.expiring.set(sub, sub.due()) // a token renews itself, not the database's answer
	r := &protocol.SubRefreshResult{}
	r.Expires, r.Ttl = c.tellsOf(expires, true)
	return r, nil
}
