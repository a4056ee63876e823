package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/centrifugal/protocol"
	"github.com/golang-jwt/jwt/v5"
)

// maxMethod bounds the name of an RPC method, in bytes.
const maxMethod = 255

// admission is what a connection begins with.
type admission struct {
	claims *Claims
	data   json.RawMessage  // for the client
	subs   map[string]grant // which it did not ask for
}

// connectResult is the connect hook's.
type connectResult struct {
	User     string                     `json:"user"`
	ExpireAt int64                      `json:"expire_at"`
	Info     json.RawMessage            `json:"info"`
	B64Info  string                     `json:"b64info"`
	Data     json.RawMessage            `json:"data"`
	B64Data  string                     `json:"b64data"`
	Channels []string                   `json:"channels"`
	Subs     map[string]*subscribeReply `json:"subs"`
	Meta     json.RawMessage            `json:"meta"`
}

// identify says who a client is: its token does, or else the connect hook.
func (c *client) identify(ctx context.Context, req *protocol.ConnectRequest) (*admission, error) {
	h := c.node.hooks.connect
	if h == nil || req.Token != "" {
		return c.identifyByToken(ctx, req.Token)
	}
	data, err := requestData(req.Data)
	if err != nil {
		return nil, err
	}
	c.waitForHook(h)
	asked := c.node.now()
	result, err := consult[connectResult](ctx, c, h, hookRequest{Data: data, Name: req.Name, Version: req.Version,
		Channels: slices.Sorted(maps.Keys(req.Subs))})
	if err != nil {
		return nil, err
	}
	if result == nil { // the hook names nobody
		return c.identifyByToken(ctx, "")
	}
	a, err := c.readConnect(result)
	if err != nil {
		return nil, c.badReply(h, err)
	}
	a.claims.IssuedAt = &jwt.NumericDate{Time: asked} // what the hook knew of him is no newer
	if at := a.claims.ExpiresAt; at != nil && hasPassed(at.Time) {
		return nil, disconnectExpired
	}
	return a, nil
}

func (c *client) identifyByToken(ctx context.Context, token string) (*admission, error) {
	claims, err := c.authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	a := &admission{claims: claims, subs: make(map[string]grant, len(claims.Subs))}
	for channel, o := range claims.Subs {
		a.subs[channel] = grant{options: o}
	}
	return a, nil
}

// waitForHook gives a client that has said connect in time the time that the hook takes: once, or one that goes
// on asking would never be stale.
func (c *client) waitForHook(h *hook) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if !c.waited {
		c.waited = true
		c.staleAt += int(h.timeout.Seconds())
	}
}

// readConnect reads the connect hook's result.
func (c *client) readConnect(r *connectResult) (*admission, error) {
	a := &admission{claims: &Claims{RegisteredClaims: jwt.RegisteredClaims{Subject: r.User}}}
	if at := expiry(r.ExpireAt); !at.IsZero() {
		a.claims.ExpiresAt = jwt.NewNumericDate(at)
	}
	if why := checkUser(r.User); why != "" {
		return nil, errors.New(why)
	}
	var err error
	if a.claims.Info, err = pickKept(r.Info, r.B64Info); err != nil {
		return nil, err
	}
	if a.data, err = pick(r.Data, r.B64Data); err != nil {
		return nil, err
	}
	if a.subs, err = c.node.readSubs(r); err != nil {
		return nil, err
	}
	meta, err := pickKept(r.Meta, "")
	if err != nil {
		return nil, err
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	c.meta = meta
	return a, nil
}

// readSubs reads what the connect hook subscribes its client to.
func (n *Node) readSubs(r *connectResult) (map[string]grant, error) {
	if len(r.Channels)+len(r.Subs) > maxChannelsPerClient {
		return nil, errors.New("there are too many channels")
	}
	subs := make(map[string]grant, len(r.Channels)+len(r.Subs))
	var err error
	for _, channel := range r.Channels {
		if subs[channel], err = n.granted(channel, nil); err != nil {
			return nil, err
		}
	}
	for channel, sub := range r.Subs {
		if subs[channel], err = n.granted(channel, sub); err != nil {
			return nil, err
		}
		if at := subs[channel].expires; !at.IsZero() && hasPassed(at) {
			return nil, errors.New("a subscription's expire_at has passed")
		}
	}
	return subs, nil
}

// connMeta is what the connect hook has said for the others.
func (c *client) connMeta() json.RawMessage {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	return c.meta
}

// badReply is what a client gets for a reply of a hook that makes no sense.
func (c *client) badReply(h *hook, why error) error {
	c.node.stats.hooks.failed.Add(1)
	c.node.logger.Warn("a hook did not answer as it must", "hook", h.name, "client", c.id, "error", why)
	return ErrInternal
}

// requestData is what a client sends along, as a hook gets it.
func requestData(data []byte) (json.RawMessage, error) {
	if len(data) == 0 {
		return nil, nil
	}
	d, why := compact(data)
	if why != "" {
		return nil, ErrBadRequest.With(why)
	}
	return d, nil
}

// publishResult is the publish hook's.
type publishResult struct {
	Data        json.RawMessage   `json:"data"`
	B64Data     string            `json:"b64data"`
	SkipHistory bool              `json:"skip_history"`
	Tags        map[string]string `json:"tags"`
}

// askPublish lets the publish hook decide over a client's message, and change it.
func (c *client) askPublish(ctx context.Context, m *Message) error {
	if err := c.node.Check(m); err != nil {
		return err
	}
	h := c.node.hooks.publish
	result, err := consult[publishResult](ctx, c, h, hookRequest{User: &c.user, Channel: m.Channel, Data: m.Data})
	if err != nil || result == nil {
		return err
	}
	data, err := pick(result.Data, result.B64Data)
	if err != nil {
		return c.badReply(h, err)
	}
	if data != nil {
		m.Data = data
	}
	m.Meta.Tags = result.Tags
	m.ephemeral = m.ephemeral || result.SkipHistory
	if err = c.node.Check(m); err != nil {
		return c.badReply(h, err)
	}
	return nil
}

// rpcResult is the RPC hook's.
type rpcResult struct {
	Data    json.RawMessage `json:"data"`
	B64Data string          `json:"b64data"`
}

// rpc lets the RPC hook answer what the client asks.
func (c *client) rpc(ctx context.Context, req *protocol.RPCRequest) (*protocol.RPCResult, error) {
	h := c.node.hooks.rpc
	if h == nil {
		return nil, ErrNotAvailable
	}
	if len(req.Method) > maxMethod {
		return nil, ErrBadRequest.With("the method's name is longer than 255 bytes")
	}
	data, err := requestData(req.Data)
	if err != nil {
		return nil, err
	}
	result, err := consult[rpcResult](ctx, c, h, hookRequest{User: &c.user, Method: strings.ToValidUTF8(req.Method, ""), Data: data})
	if err != nil || result == nil {
		return &protocol.RPCResult{}, err
	}
	if data, err = pick(result.Data, result.B64Data); err != nil {
		return nil, c.badReply(h, err)
	}
	return &protocol.RPCResult{Data: protocol.Raw(data)}, nil
}
