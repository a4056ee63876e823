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

// join adds the subscription and reads its past.
func (c *client) join(ctx context.Context, req *protocol.SubscribeRequest) (*protocol.SubscribeResult, *subscription, error) {
	channel := strings.Clone(req.Channel)
	if why := checkChannel(channel); why != "" {
		return nil, nil, ErrBadRequest.With(why)
	}
	o := c.node.cfg.Namespaces.of(channel)
	if !c.maySubscribe(channel, o) {
		return nil, nil, ErrPermissionDenied
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
	sub, at, err := c.register(channel, view, since, recovers)
	if err != nil {
		return nil, nil, err
	}
	r := &protocol.SubscribeResult{Delta: view.isDelta()}
	if o.Ephemeral || !o.Recovery && !req.Positioned {
		return r, sub, nil
	}
	r.Recoverable, r.Positioned, r.Epoch, r.Offset = o.Recovery, true, at.Epoch, at.Offset
	if recovers || o.CacheChannel {
		err = c.catchUp(ctx, sub, since, at, recovers, o, r)
	}
	if err == nil && recovers && !r.Recovered && !o.CacheChannel && req.Flag&flagRejectUnrecovered != 0 {
		err = ErrUnrecoverable
	}
	if err != nil {
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		c.shard.unsubscribe(sub)
		return nil, nil, err
	}
	return r, sub, nil
}

// flagRejectUnrecovered is the client's wish not to be subscribed where recovery is not possible.
const flagRejectUnrecovered = 1 << 1

// catchUp adds to a subscribe's result what came after since, if the client recovers, or the last message of
// a cache channel. The subscription began at `at`.
func (c *client) catchUp(ctx context.Context, sub *subscription, since, at Position, recovers bool, o ChannelOptions, r *protocol.SubscribeResult) error {
	r.WasRecovering = true
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
func (c *client) register(channel string, v *view, since Position, recovers bool) (*subscription, Position, error) {
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
	sub := &subscription{client: c, channel: channel, view: v, from: s.at}
	if recovers && since.Epoch == s.epoch {
		sub.from = max(s.at, since.Offset)
	}
	s.subscribe(sub)
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
