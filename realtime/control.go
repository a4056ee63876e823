package realtime

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// control is what one replica tells all, itself included, through NOTIFY: commands that concern connections,
// wherever they are. It is not stored; a replica that is away has no connections that the command could mean
// but those that will come back and be judged anew.
type control struct {
	Op     string `json:"op"`
	User   string `json:"user,omitempty"`
	Client string `json:"client,omitempty"` // only this connection of the user's

	Channel string `json:"channel,omitempty"`
	Code    uint16 `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// execer is the pool, or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const (
	opDisconnect = "disconnect"
	opWebhooks   = "webhooks"  // something is queued for the webhooks
	opOccupancy  = "occupancy" // a replica has channels with webhooks now, or is leaving
)

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
	case opWebhooks:
		n.webhooks.queued()
	case opOccupancy:
		n.webhooks.told()
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
