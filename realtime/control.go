package realtime

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/jackc/pgx/v5/pgconn"
)

// control is what one replica tells all, itself included, through NOTIFY: commands that concern connections,
// wherever they are. It is not stored; a replica that is away has no connections that the command could mean
// but those that will come back and be judged anew.
type control struct {
	Op     string `json:"op"`
	User   string `json:"user,omitempty"`
	Client string `json:"client,omitempty"` // only this connection of the user's

	Channel string            `json:"channel,omitempty"`
	Offset  uint64            `json:"offset,omitempty"`
	Options *SubscribeOptions `json:"options,omitempty"`
	Code    uint16            `json:"code,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Micros  int64             `json:"micros,omitempty"` // a moment, in microseconds since 1970; 0 for none

	// Of opEmulate: a command for a stream that only this replica has.

	Node     string        `json:"node,omitempty"`
	Session  string        `json:"session,omitempty"`
	Data     []byte        `json:"data,omitempty"`
	Serial   uint64        `json:"serial,omitempty"`
	Question *question     `json:"question,omitempty"` // see survey.go
	Answer   *surveyAnswer `json:"answer,omitempty"`
}

const (
	opDisconnect  = "disconnect"
	opSubscribe   = "subscribe"
	opUnsubscribe = "unsubscribe"
	opRefresh     = "refresh"
	opRevoke      = "revoke" // sent by forgewire.revoke
	opHide        = "hide"
	opEmulate     = "emulate"
	opAnnounce    = "announce"
	opAsk         = "ask"
	opAnswer      = "answer"
	opWebhooks    = "webhooks"  // something is queued for the webhooks
	opLogs        = "logs"      // the set of logs is another one
	opOccupancy   = "occupancy" // a replica has channels with webhooks now, or is leaving
)

// execer is the pool, or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// tell sends a control to every replica.
func (n *Node) tell(ctx context.Context, c control) error { return tellIn(ctx, n.cfg.Pool, c) }

// tellIn sends a control to every replica if and when q's transaction commits.
func tellIn(ctx context.Context, q execer, c control) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode a control: %w", err)
	}
	if len(b)+len(kindControl) > maxPayload {
		return ErrLimitExceeded.With("the command is too large to be passed on")
	}
	if _, err = q.Exec(ctx, "SELECT pg_notify($1, $2)", notifyLog, kindControl+string(b)); err != nil {
		return fmt.Errorf("tell the replicas: %w", err)
	}
	return nil
}

// handleControl does this replica's share. It must not block: the listener waits for it.
func (n *Node) handleControl(body []byte) {
	var c control
	if err := json.Unmarshal(body, &c); err != nil {
		n.logger.Warn("a control that no replica sent was ignored", "error", err)
		return
	}
	switch c.Op {
	case opDisconnect:
		for _, client := range n.hub.clientsOf(c.User, c.Client) {
			client.disconnect(&Disconnect{Code: c.Code, Reason: c.Reason})
		}
	case opAsk:
		if c.Question != nil {
			n.heard(*c.Question)
		}
	case opAnswer:
		if c.Answer != nil {
			n.surveys.answered(c.Answer)
		}
	case opSubscribe:
		if checkChannel(c.Channel) != "" || c.Options == nil || c.Options.check() != nil {
			return // no replica sends that
		}
		for _, client := range n.hub.clientsOf(c.User, c.Client) {
			if client.isConnected() {
				client.subscribeForServer(n.life, c.Channel, *c.Options)
			}
		}
	case opUnsubscribe:
		for _, client := range n.hub.clientsOf(c.User, c.Client) {
			client.unsubscribeForServer(c.Channel, uint32(c.Code), c.Reason)
		}
	case opRefresh:
		for _, client := range n.hub.clientsOf(c.User, c.Client) {
			client.refreshForServer(c.moment())
		}
	case opRevoke:
		n.revoked(c.User, c.moment())
	case opHide:
		n.strandOf(c.Channel).in.tail.hide(c.Channel, c.Offset)
	case opEmulate:
		if c.Node == n.id {
			n.sessions.deliver(c.Session, c.Data) // one that has ended needs no command
		}
	case opWebhooks:
		n.webhooks.queued()
	case opOccupancy:
		n.webhooks.told()
	case opLogs:
		for _, s := range n.strands {
			s.listener.end(errSetChanged)
		}
	case opAnnounce:
		n.announced(c.Channel, c.Data)
	default:
		n.logger.Debug("a control of another version was ignored", "op", c.Op)
	}
}

// Disconnect ends a user's connections on every replica, or one of them. With a code from 3500 on the client
// does not come back by itself; 0 stands for that.
func (n *Node) Disconnect(ctx context.Context, user, client string, d Disconnect) error {
	if user == "" {
		return ErrBadRequest.With("user is missing")
	}
	if d.Code == 0 {
		d = *disconnectForced
	}
	if d.Code < 3000 || d.Code > 4999 {
		return ErrBadRequest.With("a disconnect code is from 3000 to 4999")
	}
	return n.tell(ctx, control{Op: opDisconnect, User: user, Client: client, Code: d.Code, Reason: d.Reason})
}

func (c *control) moment() time.Time {
	if c.Micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(c.Micros)
}

// Refresh makes a user's connections on every replica, or one of them, end at another time than their tokens
// say, the zero time for never; or, if expired, at once: the client gets a new token and comes back.
func (n *Node) Refresh(ctx context.Context, user, client string, expired bool, expireAt time.Time) error {
	if expired {
		return n.Disconnect(ctx, user, client, *disconnectExpired)
	}
	if user == "" {
		return ErrBadRequest.With("user is missing")
	}
	c := control{Op: opRefresh, User: user, Client: client}
	if !expireAt.IsZero() {
		c.Micros = expireAt.UnixMicro()
	}
	return n.tell(ctx, c)
}

// refreshForServer makes the connection end then, and tells the client.
func (c *client) refreshForServer(at time.Time) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	c.expires = at
	if !c.connected {
		return // the reply to connect is under way
	}
	p := &protocol.Refresh{}
	p.Expires, p.Ttl = c.tells(at)
	c.send(c.format.encode(push(&protocol.Push{Refresh: p})))
}
