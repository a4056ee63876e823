package realtime

import (
	"context"
	"encoding/json"
	"errors"
)

// subscribeReply is the subscribe hook's result, and one of the connect hook's subs.
type subscribeReply struct {
	ExpireAt int64           `json:"expire_at"`
	Info     json.RawMessage `json:"info"`
	B64Info  string          `json:"b64info"`
	Data     json.RawMessage `json:"data"`
	B64Data  string          `json:"b64data"`
	Override override        `json:"override"`
	// What would keep messages from this subscriber and cannot be done here must not be passed over.
	ServerTagsFilter json.RawMessage `json:"server_tags_filter"`
}

// override is what a hook changes of a channel's options for one subscription. What it does not name stays.
type override struct {
	Presence         *flag `json:"presence"`   // false: nobody sees that the client is there
	JoinLeave        *flag `json:"join_leave"` // as the channel's, or refused: see granted
	ForceRecovery    *flag `json:"force_recovery"`
	ForcePositioning *flag `json:"force_positioning"`
}

// flag is a boolean that a hook's result may leave out.
type flag struct {
	Value bool `json:"value"`
}

func (f *flag) or(option bool) bool {
	if f == nil {
		return option
	}
	return f.Value
}

// apply returns the channel's options as they are for the subscription.
func (o override) apply(channel ChannelOptions) ChannelOptions {
	channel.Recovery = o.ForceRecovery.or(channel.Recovery)
	channel.CacheChannel = channel.CacheChannel && channel.Recovery
	return channel
}

func (o override) positions() bool { return o.ForcePositioning.or(false) }
func (o override) hides() bool     { return !o.Presence.or(true) }

// check says what cannot be done for one subscription of a channel with these options, or "".
func (o override) check(channel ChannelOptions) string {
	switch {
	case o.Presence.or(false) && !channel.Presence:
		return "the channel's namespace has no presence to override"
	case !o.hides() && o.JoinLeave.or(channel.JoinLeave) != channel.JoinLeave:
		return "join_leave is the namespace's alone: presence false hides a subscriber"
	}
	return ""
}

// askSubscribe lets the subscribe hook decide over what the client asks for.
func (c *client) askSubscribe(ctx context.Context, channel string, sent []byte) (g grant, err error) {
	data, err := requestData(sent)
	if err != nil {
		return g, err
	}
	h := c.node.hooks.subscribe
	result, err := consult[subscribeReply](ctx, c, h, hookRequest{User: &c.user, Channel: channel, Data: data})
	if err != nil {
		return g, err
	}
	if g, err = c.node.granted(channel, result); err != nil {
		return g, c.badReply(h, err)
	}
	if !g.expires.IsZero() && hasPassed(g.expires) {
		return g, ErrTokenExpired
	}
	return g, nil
}

// granted reads what a hook says of a subscription; nil says that it may be.
func (n *Node) granted(channel string, r *subscribeReply) (g grant, err error) {
	if why := checkChannel(channel); why != "" {
		return g, errors.New(why)
	}
	if r == nil {
		return g, nil
	}
	if len(r.ServerTagsFilter) > 0 && string(r.ServerTagsFilter) != "null" {
		return g, errors.New("server_tags_filter is not supported")
	}
	if why := r.Override.check(n.cfg.Namespaces.of(channel)); why != "" {
		return g, errors.New(why)
	}
	g.expires, g.override = expiry(r.ExpireAt), r.Override
	if g.options.Info, err = pickKept(r.Info, r.B64Info); err != nil {
		return g, err
	}
	g.options.Data, err = pick(r.Data, r.B64Data)
	return g, err
}
