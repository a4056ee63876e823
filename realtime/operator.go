package realtime

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Operators watch over the server: they are the people behind the dashboard. They may subscribe to every channel,
// unseen by the others on it, and alone to those of OperatorNamespace. They do not publish over their connections.

// OperatorNamespace is that of the channels which show a replica's figures to operators. No configuration opens it.
const OperatorNamespace = "forgewire"

// operatorKid is the kid of operators' tokens.
const operatorKid = "forgewire-operator"

// operatorOptions are those of OperatorNamespace: nothing is kept, and nobody else may do anything.
var operatorOptions = ChannelOptions{Ephemeral: true}

// errOperatorsOnly is told to whoever else wants one of those channels, by whatever way.
var errOperatorsOnly = ErrPermissionDenied.With("the channel belongs to the server")

// SignOperator makes a connection token for an operator, with the key of operators, that is good for ttl.
func (cfg TokenConfig) SignOperator(user string, ttl time.Duration) (string, error) {
	if len(cfg.OperatorKey) == 0 {
		return "", errors.New("sign an operator's token: there is no key")
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, cfg.claims(user, ttl))
	t.Header["kid"] = operatorKid
	return signed(t, cfg.OperatorKey)
}

// operator returns the key of operators' tokens, and notes in the claims that this is one. They count only if the
// key is right.
func (v *verifier) operator(t *jwt.Token) (any, error) {
	c, ok := t.Claims.(*Claims)
	if !ok || len(v.operators) == 0 {
		return nil, errors.New("operators' tokens are for connections to a server that has a dashboard")
	}
	c.operator = true
	return v.operators, nil
}

// mayHave says whether the channel is one that the client can have at all, whoever grants it.
func (c *client) mayHave(channel string) error {
	if c.node.cfg.Namespaces.secluded[namespaceOf(channel)] && !c.operator {
		return errOperatorsOnly
	}
	return nil
}

// Watched brings a value after an operator has subscribed to a channel of OperatorNamespace on this replica.
func (n *Node) Watched() <-chan struct{} { return n.watched }

func (n *Node) watchedOn() {
	select {
	case n.watched <- struct{}{}:
	default: // it is known already
	}
}

// Watchers counts this replica's subscribers of a channel of OperatorNamespace.
func (n *Node) Watchers(name string) int {
	count := 0
	for _, s := range n.hub.shards {
		s.mu.Lock()
		if ch := s.channels[OperatorNamespace+":"+name]; ch != nil {
			count += len(ch.subs)
		}
		s.mu.Unlock()
	}
	return count
}

// Show gives a message to this replica's subscribers of a channel of OperatorNamespace. It never leaves the
// replica, so it may be large and costs the database nothing.
func (n *Node) Show(name string, data json.RawMessage) {
	channel := OperatorNamespace + ":" + name
	b := &burst{channel: channel, messages: []*Message{{Channel: channel, Data: data}}, size: len(data)}
	for _, s := range n.hub.shards {
		s.mu.Lock()
		s.gather([]*burst{b})
		s.flush()
		s.mu.Unlock()
	}
}

// Revoked reports whether what a user was given at a moment has been taken back by Revoke.
func (n *Node) Revoked(user string, issued time.Time) bool { return n.revocations.refuse(user, issued) }
