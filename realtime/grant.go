package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/centrifugal/protocol"
)

// grant is a subscription that a client may have.
type grant struct {
	options ChannelOptions  // the channel's, as whoever granted it changed them
	info    json.RawMessage // which others are shown
	data    json.RawMessage // for the client
	expires time.Time       // zero for never
	server  bool            // the client did not ask for it
}

// subscribeReply is the subscribe hook's result, and one of the connect hook's subs.
type subscribeReply struct {
	ExpireAt int64           `json:"expire_at"`
	Info     json.RawMessage `json:"info"`
	B64Info  string          `json:"b64info"`
	Data     json.RawMessage `json:"data"`
	B64Data  string          `json:"b64data"`
	Override struct {
		Presence         *flag `json:"presence"`
		JoinLeave        *flag `json:"join_leave"`
		ForceRecovery    *flag `json:"force_recovery"`
		ForcePositioning *flag `json:"force_positioning"` // positions come with recovery
	} `json:"override"`
	// What would keep messages from this subscriber and cannot be done here must not be passed over.
	ServerTagsFilter json.RawMessage `json:"server_tags_filter"`
}

// flag is a boolean that a hook's result may leave out.
type flag struct {
	Value bool `json:"value"`
}

func (f *flag) set(option *bool) {
	if f != nil {
		*option = f.Value
	}
}

// mayJoin decides whether the client may subscribe to a channel: the subscribe hook does where the namespace
// has it, but for channels that need a token ("$") or name their users ("#"); else the namespace's options.
func (c *client) mayJoin(ctx context.Context, channel string, req *protocol.SubscribeRequest) (*grant, error) {
	o := c.node.cfg.Namespaces.of(channel)
	if !o.SubscribeProxy || strings.HasPrefix(channel, "$") || strings.Contains(channel, "#") {
		if !c.maySubscribe(channel, o) {
			return nil, ErrPermissionDenied
		}
		return &grant{options: o}, nil
	}
	data, err := requestData(req.Data)
	if err != nil {
		return nil, err
	}
	h := c.node.hooks.subscribe
	result, err := ask[subscribeReply](ctx, c, h, hookRequest{User: &c.user, Channel: channel, Data: data})
	if err != nil {
		return nil, err
	}
	if result == nil {
		result = &subscribeReply{}
	}
	g, err := c.granted(channel, result)
	if err != nil {
		return nil, c.badReply(h, err)
	}
	if !g.expires.IsZero() && hasPassed(g.expires) {
		return nil, ErrTokenExpired
	}
	return g, nil
}

// granted reads what a hook says of a subscription.
func (c *client) granted(channel string, r *subscribeReply) (*grant, error) {
	if why := checkChannel(channel); why != "" {
		return nil, errors.New(why)
	}
	if r == nil {
		r = &subscribeReply{}
	}
	if len(r.ServerTagsFilter) > 0 && string(r.ServerTagsFilter) != "null" {
		return nil, errors.New("server_tags_filter is not supported")
	}
	g := &grant{options: c.node.cfg.Namespaces.of(channel), expires: expiry(r.ExpireAt)}
	r.Override.Presence.set(&g.options.Presence)
	r.Override.JoinLeave.set(&g.options.JoinLeave)
	r.Override.ForcePositioning.set(&g.options.Recovery)
	r.Override.ForceRecovery.set(&g.options.Recovery)
	var err error
	if g.info, err = pick(r.Info, r.B64Info); err != nil {
		return nil, err
	}
	if g.data, err = pick(r.Data, r.B64Data); err != nil {
		return nil, err
	}
	return g, nil
}

// followAll adds the subscriptions that a connection begins with: all of them or none. They hold back what
// comes until releaseAll.
func (c *client) followAll(ctx context.Context, grants map[string]*grant, reqs map[string]*protocol.SubscribeRequest) ([]*subscription, map[string]*protocol.SubscribeResult, error) {
	if len(grants) == 0 {
		return nil, nil, nil
	}
	var subs []*subscription
	results := make(map[string]*protocol.SubscribeResult, len(grants))
	for channel, g := range grants {
		req := reqs[channel]
		if req == nil {
			req = &protocol.SubscribeRequest{}
		}
		r, sub, err := c.follow(ctx, channel, req, g)
		if err != nil {
			c.shard.mu.Lock()
			defer c.shard.mu.Unlock()
			for _, sub := range subs {
				c.shard.unsubscribe(sub)
			}
			return nil, nil, fmt.Errorf("subscribe to what the connection begins with: %w", err)
		}
		subs, results[channel] = append(subs, sub), r
	}
	return subs, results, nil
}

// releaseAll gives the client what the subscriptions held. One that lost something ends the connection, so
// that it begins anew: the client does not subscribe to such channels by itself.
func (c *client) releaseAll(subs []*subscription) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	for _, sub := range subs {
		if sub.lost {
			c.disconnect(disconnectInsufficient)
			return
		}
		c.shard.release(sub)
	}
}
