package realtime

import (
	"context"
	"errors"
	"strings"

	"github.com/centrifugal/protocol"
)

// maxChannelsPerClient bounds a client's subscriptions.
const maxChannelsPerClient = 1000

// subscribe makes the client hear everything on a channel from a known position on, without a hole: first
// it joins the hub, where what arrives is held back; then the past is read from the log, up to where it
// joined; then the reply, what was held, and from there on everything as it comes.
func (c *client) subscribe(ctx context.Context, cmd *protocol.Command) *Disconnect {
	result, sub, err := c.join(ctx, cmd.Subscribe)
	var d *Disconnect
	if errors.As(err, &d) {
		return d
	}
	if err != nil {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: c.errorFor(err).reply()})
		return nil
	}
	reply := c.format.encode(&protocol.Reply{Id: cmd.Id, Subscribe: result})
	s := c.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.lost {
		// While we read, the log went back, or more came than can be held, or the client left.
		s.unsubscribe(sub)
		c.reply(&protocol.Reply{Id: cmd.Id, Error: ErrInternal.reply()})
		return nil
	}
	c.sendReply(reply)
	s.release(sub)
	return nil
}

// join adds the subscription that the client asks for, if it may have it, and reads its past.
func (c *client) join(ctx context.Context, req *protocol.SubscribeRequest) (*protocol.SubscribeResult, *subscription, error) {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return nil, nil, ErrBadRequest.With(why)
	}
	g, err := c.mayJoin(ctx, channel, req)
	if err != nil {
		return nil, nil, err
	}
	return c.follow(ctx, channel, req, g)
}

// follow adds a subscription that was granted and reads its past.
func (c *client) follow(ctx context.Context, channel string, req *protocol.SubscribeRequest, g *grant) (*protocol.SubscribeResult, *subscription, error) {
	sub, at, err := c.register(channel, g)
	if err != nil {
		return nil, nil, err
	}
	r := &protocol.SubscribeResult{Data: protocol.Raw(g.data)}
	if r.Expires = !g.expires.IsZero() && c.node.hooks.subRefresh == nil; r.Expires {
		r.Ttl = ttlOf(g.expires)
	}
	if g.options.Ephemeral || !g.options.Recovery {
		return r, sub, nil
	}
	r.Recoverable, r.Positioned, r.Epoch, r.Offset = true, true, at.Epoch, at.Offset
	if !req.Recover {
		return r, sub, nil
	}
	r.WasRecovering = true
	since := Position{Offset: req.Offset, Epoch: strings.Clone(req.Epoch)}
	if since == at {
		r.Recovered = true
		return r, sub, nil
	}
	missed, err := c.node.past(ctx, channel, since, at.Offset)
	switch {
	case errors.Is(err, ErrUnrecoverable):
		return r, sub, nil // from here on, and the client is told that something is missing
	case err != nil:
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		c.shard.unsubscribe(sub)
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

// register adds a subscription that holds back what comes, and returns the position that it begins at.
func (c *client) register(channel string, g *grant) (*subscription, Position, error) {
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
	sub := &subscription{client: c, channel: channel, from: s.at, info: g.info, expires: g.expires, server: g.server}
	s.subscribe(sub)
	c.expireWith(sub)
	return sub, Position{Offset: s.at, Epoch: s.epoch}, nil
}

// maySubscribe keeps what needs a grant of its own from everybody: "$" channels need a subscription token,
// "#" channels name their users.
func (c *client) maySubscribe(channel string, o ChannelOptions) bool {
	if strings.HasPrefix(channel, "$") || !o.AllowSubscribeForClient || c.user == "" && !o.AllowSubscribeForAnonymous {
		return false
	}
	if _, users, limited := strings.Cut(channel, "#"); limited {
		for u := range strings.SplitSeq(users, ",") {
			if u == c.user && u != "" {
				return true
			}
		}
		return false
	}
	return true
}
