package realtime

import (
	"context"
	"errors"

	"github.com/centrifugal/protocol"
)

// joinAll makes the subscriptions that a connection begins with, and goes on where the client says that it
// was. Those that the database refuses are left out, and so is what its position is worth once the reply is
// as large as one may be.
func (c *client) joinAll(ctx context.Context, wanted map[string]grant, was map[string]*protocol.SubscribeRequest) (map[string]*protocol.SubscribeResult, []*subscription, error) {
	if len(wanted) == 0 {
		return nil, nil, nil
	}
	results := make(map[string]*protocol.SubscribeResult, len(wanted))
	var subs []*subscription
	size := 0
	for channel, g := range wanted {
		g.server = true
		err := c.judge(ctx, channel, c.node.cfg.Namespaces.of(channel), &g)
		if err == nil {
			err = c.mayHave(channel)
		}
		if errors.Is(err, ErrPermissionDenied) || errors.Is(err, errOperatorsOnly) {
			c.node.logger.Info("a channel was refused", "client", c.id, "channel", channel, "error", err)
			continue
		}
		req := &protocol.SubscribeRequest{}
		tooLarge := was[channel].GetRecover() && size > maxRecoveredBytes
		if was[channel].GetRecover() && !tooLarge {
			req.Recover, req.Offset, req.Epoch = true, was[channel].Offset, was[channel].Epoch
		}
		var sub *subscription
		var r *protocol.SubscribeResult
		if err == nil {
			r, sub, err = c.join(ctx, channel, g, req)
		}
		if err != nil {
			c.leave(subs...)
			return nil, nil, err
		}
		r.WasRecovering = r.WasRecovering || tooLarge && r.Recoverable
		for _, p := range r.Publications {
			size += len(p.Data)
		}
		results[channel], subs = r, append(subs, sub)
	}
	return results, subs, nil
}

// Subscribe subscribes a user's connections on every replica, or one of them, to a channel, from now on and
// for as long as they last. Neither the channel's options nor the database are asked: it is the server's wish.
func (n *Node) Subscribe(ctx context.Context, user, client, channel string, o SubscribeOptions) error {
	if user == "" {
		return ErrBadRequest.With("user is missing")
	}
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if err := o.check(); err != nil {
		return ErrBadRequest.With(err.Error())
	}
	return n.tell(ctx, control{Op: opSubscribe, User: user, Client: client, Channel: channel, Options: &o})
}

// Unsubscribe takes a channel from a user's connections on every replica, or from one of them. A client that
// made the subscription itself subscribes again after a code from 2500 on; 0 stands for 2000, after which it
// does not.
func (n *Node) Unsubscribe(ctx context.Context, user, client, channel string, code uint32, reason string) error {
	if user == "" {
		return ErrBadRequest.With("user is missing")
	}
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if code == 0 {
		code, reason = unsubscribeServer, unsubscribeServerReason
	}
	if code < 2000 || code > 2999 {
		return ErrBadRequest.With("an unsubscribe code is from 2000 to 2999")
	}
	return n.tell(ctx, control{Op: opUnsubscribe, User: user, Client: client, Channel: channel, Code: uint16(code), Reason: reason})
}

// subscribeForServer adds a channel to a connection and tells it. The listener waits for it, so it reads nothing of the
// past: a cache channel's value follows when it is there.
func (c *client) subscribeForServer(ctx context.Context, channel string, options SubscribeOptions) {
	g := grant{options: options, server: true}
	o := g.override.apply(c.node.cfg.Namespaces.of(channel))
	r, sub, err := c.enlist(channel, g, o, &protocol.SubscribeRequest{})
	if err != nil {
		c.node.logger.Info("a client was not subscribed to a channel", "client", c.id, "channel", channel, "error", err)
		return
	}
	told := push(&protocol.Push{Channel: channel, Subscribe: &protocol.Subscribe{
		Recoverable: r.Recoverable, Positioned: r.Positioned, Epoch: r.Epoch, Offset: r.Offset, Data: r.Data}})
	if !c.begin(told, sub) {
		c.disconnect(disconnectInsufficient)
		return
	}
	if o.CacheChannel && r.Positioned {
		c.startLatest(ctx, sub, r.Offset, o.kept())
	}
}

// startLatest gives the client the last publication that a cache channel had when the subscription began, unless a newer
// one is there first.
func (c *client) startLatest(ctx context.Context, sub *subscription, upto uint64, k kept) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.subs[sub.channel] != sub {
		return
	}
	c.node.clients.Add(1) // as in startRefresh
	go func() {
		defer c.node.clients.Done()
		defer c.survive()
		m, err := c.node.latest(c.waiting(ctx), sub.channel, upto, k)
		if err != nil && !errors.Is(err, context.Canceled) {
			c.node.logger.Warn("the value of a cache channel could not be read for a client", "client", c.id, "channel", sub.channel, "error", err)
		}
		if m == nil {
			return
		}
		frame := c.format.encode(push(&protocol.Push{Channel: sub.channel, Pub: m.publication()}))
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		if ch := c.shard.channels[sub.channel]; c.subs[sub.channel] == sub && ch.last <= upto {
			c.send(frame)
		}
	}()
}

// unsubscribeForServer removes a channel from a connection and tells it.
func (c *client) unsubscribeForServer(channel string, code uint32, reason string) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	sub := c.subs[channel]
	if sub == nil {
		return
	}
	if sub.lost = true; sub.live { // if not, who makes it tells the client
		c.send(c.format.encode(unsubscribed(channel, code, reason)))
	}
	c.shard.unsubscribe(sub)
}
