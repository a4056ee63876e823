package realtime

import (
	"context"
	"fmt"
	"strings"

	"github.com/centrifugal/protocol"
)

// Bounds of one answer to who is on a channel.
const (
	MaxPresence      = 1000
	maxPresenceBytes = 1 << 20
)

var errCrowded = ErrLimitExceeded.With("too many members to list, ask for presence_stats")

// arrive counts a subscription that became live among its channel's members. The caller holds the shard's mu.
func (sub *subscription) arrive() {
	c := sub.client
	if sub.hidden || !c.node.cfg.Namespaces.of(sub.channel).Presence || c.node.presence == nil {
		return
	}
	sub.member = &protocol.ClientInfo{User: c.user, Client: c.id, ConnInfo: c.connInfo(), ChanInfo: sub.info}
	c.node.presence.join(sub.channel, sub.member)
}

// depart undoes arrive. The caller holds the shard's mu.
func (sub *subscription) depart() {
	if sub.member != nil {
		sub.client.node.presence.leave(sub.channel, sub.member)
		sub.member = nil
	}
}

// Presence returns who is subscribed to a channel, on all replicas, by client: at most MaxPresence, else
// ErrLimitExceeded.
func (n *Node) Presence(ctx context.Context, channel string) (map[string]*protocol.ClientInfo, error) {
	if err := n.presenceOf(ctx, channel); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := n.cfg.Pool.Query(ctx, `SELECT p.client, p."user", coalesce(p.conn_info, ''), coalesce(p.chan_info, '')
		FROM forgewire.presence p JOIN forgewire.replicas r ON r.id = p.replica AND r.expires > clock_timestamp()
		WHERE p.channel = $1 LIMIT $2`, channel, MaxPresence+1)
	if err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	defer rows.Close()
	members, size := map[string]*protocol.ClientInfo{}, 0
	for rows.Next() {
		var client, user, conn, chanInfo string
		if err = rows.Scan(&client, &user, &conn, &chanInfo); err != nil {
			return nil, fmt.Errorf("read presence: %w", err)
		}
		size += len(user) + len(conn) + len(chanInfo)
		if len(members) == MaxPresence || size > maxPresenceBytes {
			return nil, errCrowded
		}
		members[client] = &protocol.ClientInfo{User: user, Client: client, ConnInfo: raw(conn), ChanInfo: raw(chanInfo)}
	}
	if err = rows.Err(); err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	return members, nil
}

// PresenceStats counts a channel's members, on all replicas.
type PresenceStats struct{ Clients, Users int }

// PresenceStats counts who is subscribed to a channel, however many.
func (n *Node) PresenceStats(ctx context.Context, channel string) (PresenceStats, error) {
	if err := n.presenceOf(ctx, channel); err != nil {
		return PresenceStats{}, err
	}
	return n.counts.ask(ctx, channel, func(ctx context.Context) (s PresenceStats, err error) {
		err = n.cfg.Pool.QueryRow(ctx, `SELECT count(*), count(DISTINCT p."user")
			FROM forgewire.presence p JOIN forgewire.replicas r ON r.id = p.replica AND r.expires > clock_timestamp()
			WHERE p.channel = $1`, channel).Scan(&s.Clients, &s.Users)
		if err != nil {
			return s, fmt.Errorf("count presence: %w", err)
		}
		return s, nil
	})
}

// presenceOf refuses channels that have no presence, and waits for what this replica has yet to write.
func (n *Node) presenceOf(ctx context.Context, channel string) error {
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if !n.cfg.Namespaces.of(channel).Presence {
		return ErrNotAvailable.With("the channel's namespace has no presence")
	}
	if err := n.presence.settled(ctx); err != nil {
		return fmt.Errorf("wait for presence to be written: %w", err)
	}
	return nil
}

func (c *client) presence(ctx context.Context, req *protocol.PresenceRequest) (*protocol.PresenceResult, error) {
	channel := strings.Clone(req.Channel)
	if err := c.mayAskWho(ctx, channel); err != nil {
		return nil, err
	}
	members, err := c.node.Presence(ctx, channel)
	if err != nil {
		return nil, err
	}
	return &protocol.PresenceResult{Presence: members}, nil
}

func (c *client) presenceStats(ctx context.Context, req *protocol.PresenceStatsRequest) (*protocol.PresenceStatsResult, error) {
	channel := strings.Clone(req.Channel)
	if err := c.mayAskWho(ctx, channel); err != nil {
		return nil, err
	}
	s, err := c.node.PresenceStats(ctx, channel)
	if err != nil {
		return nil, err
	}
	return &protocol.PresenceStatsResult{NumClients: uint32(s.Clients), NumUsers: uint32(s.Users)}, nil
}

// mayAskWho lets subscribers ask who else is there, where their namespace has it.
func (c *client) mayAskWho(ctx context.Context, channel string) error {
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	o := c.node.cfg.Namespaces.of(channel)
	switch {
	case !o.Presence:
		return ErrNotAvailable
	case !o.AllowPresenceForSubscriber || !c.isSubscribed(channel):
		return ErrPermissionDenied
	}
	return c.mayRead(ctx, channel, o)
}
