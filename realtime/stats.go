package realtime

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// stats counts what happened on this replica since it started. What is counted for each message or command
// is atomic.
type stats struct {
	disconnects counts
	accepted    atomic.Uint64 // connections
	commands    atomic.Uint64 // of clients
	hooks       struct {
		failed  atomic.Uint64 // calls that were not answered as they must
		refused atomic.Uint64 // calls that were not made: too many were under way
	}
	webhooks struct {
		delivered atomic.Uint64 // requests that the receiver took
		failed    atomic.Uint64 // attempts that it did not take, which are made again
		discarded atomic.Uint64 // requests that it never took in all the days
		dropped   atomic.Uint64 // events that were lost while the database was away for too long
	}
}

// counts are numbers by reason.
type counts struct {
	mu sync.Mutex
	by map[uint16]uint64
}

func (c *counts) add(d *Disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[uint16]uint64{}
	}
	c.by[d.Code]++
}

func (c *counts) all() map[uint16]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[uint16]uint64, len(c.by)) // never nil: JSON has an object
	maps.Copy(all, c.by)
	return all
}

// Stats are the figures of one replica at one moment. Counters count since it started.
type Stats struct {
	Connections ConnectionStats `json:"connections"`
	Messages    MessageStats    `json:"messages"`
	Queues      QueueStats      `json:"queues"`
	Listener    ListenerStats   `json:"listener"`
	Flushes     FlushStats      `json:"flushes"`
	Hooks       HookStats       `json:"hooks"`
	Webhooks    WebhookStats    `json:"webhooks"`
	Logs        []LogStats      `json:"logs,omitempty"` // of each, where channels are spread over several
}

// ConnectionStats are of clients.
type ConnectionStats struct {
	Total              int               `json:"total"`
	Users              int               `json:"users"` // different ones; all without a user are one
	Limit              int               `json:"limit"`
	UtilisationPercent float64           `json:"utilisation_percent"`
	Subscriptions      int               `json:"subscriptions"`
	Channels           int               `json:"channels"`
	Accepted           uint64            `json:"accepted"`
	Slow               uint64            `json:"slow_disconnects"`
	Disconnects        map[uint16]uint64 `json:"disconnects"` // by code, those that the server decided on
}

// MessageStats are of what flows.
type MessageStats struct {
	Commands  uint64 `json:"commands"`  // that clients sent
	Published uint64 `json:"published"` // by this replica's publisher
	Received  uint64 `json:"received"`  // from the log, and ephemeral ones
	Sent      uint64 `json:"sent"`      // to clients: one for each that got it
}

// QueueStats are depths, and what they may be.
type QueueStats struct {
	PublisherWaiting int `json:"publisher_waiting"` // publishes that wait for a flush
	PublisherLimit   int `json:"publisher_limit"`
	ShardEvents      int `json:"shard_events"` // of the shard that is furthest behind
	ShardLimit       int `json:"shard_limit"`
	PresenceDirty    int `json:"presence_dirty"` // members that wait to be written
}

// ListenerStats are of the one connection on which everything arrives.
type ListenerStats struct {
	Connected           bool      `json:"connected"`
	Resting             bool      `json:"resting"`                       // nobody uses this replica, so it has let go of the database
	LastNotificationAge float64   `json:"last_notification_age_seconds"` // -1: there was none
	Lag                 Histogram `json:"lag_seconds"`                   // from this replica's flush to the notification's return
}

// FlushStats are of the publisher.
type FlushStats struct {
	Failed   uint64    `json:"failed"`
	Messages Histogram `json:"messages"` // in one flush
	Seconds  Histogram `json:"seconds"`  // that one took
}

// HookStats are of calls to the team's backend.
type HookStats struct {
	Failed  uint64 `json:"failed"`  // not answered as they must be: the client got a temporary error
	Refused uint64 `json:"refused"` // not made: too many were under way
}

// WebhookStats are of what this replica sent to the webhooks' receiver.
type WebhookStats struct {
	Delivered uint64 `json:"delivered"` // requests that it took
	Failed    uint64 `json:"failed"`    // attempts that it did not take, which are made again
	Discarded uint64 `json:"discarded"` // requests that it never took, in days
	Dropped   uint64 `json:"dropped"`   // events that were lost while the database was away for too long
}

// Stats returns this replica's figures. It looks at each client once, so it is for people and scrapers, not
// for each request.
func (n *Node) Stats() Stats {
	sum := n.hub.sum()
	total := int(n.hub.count.Load())
	s := Stats{
		Connections: ConnectionStats{Total: total, Users: sum.users, Limit: n.cfg.MaxConnections,
			UtilisationPercent: 100 * float64(total) / float64(n.cfg.MaxConnections),
			Subscriptions:      sum.subscriptions, Channels: sum.channels, Accepted: n.stats.accepted.Load(), Disconnects: n.stats.disconnects.all()},
		Messages: MessageStats{Commands: n.stats.commands.Load(), Sent: sum.sent},
		Queues: QueueStats{PublisherLimit: maxWaiting * len(n.strands), ShardEvents: sum.events, ShardLimit: maxEvents,
			PresenceDirty: n.presence.backlog()},
		Listener: ListenerStats{Connected: true, Resting: n.rest.resting(), LastNotificationAge: -1},
		Hooks:    HookStats{Failed: n.stats.hooks.failed.Load(), Refused: n.stats.hooks.refused.Load()},
		Webhooks: WebhookStats{Delivered: n.stats.webhooks.delivered.Load(), Failed: n.stats.webhooks.failed.Load(),
			Discarded: n.stats.webhooks.discarded.Load(), Dropped: n.stats.webhooks.dropped.Load()},
	}
	s.addStrands(n.strands, n.forwarders)
	s.Connections.Slow = s.Connections.Disconnects[disconnectSlow.Code]
	return s
}

// sums are of all shards.
type sums struct {
	users, channels, subscriptions, events int
	sent                                   uint64
}

func (h *hub) sum() (s sums) {
	users, channels := map[string]struct{}{}, map[string]struct{}{}
	for _, sh := range h.shards {
		s.events = max(s.events, len(sh.events))
		sh.mu.Lock()
		s.sent += sh.sent
		for u := range sh.users {
			users[u] = struct{}{}
		}
		for name, ch := range sh.channels {
			channels[name] = struct{}{}
			s.subscriptions += len(ch.subs)
		}
		sh.mu.Unlock()
	}
	s.users, s.channels = len(users), len(channels)
	return s
}

func (h *health) isConnected() bool { return h.why() == nil }

// why says why the listener is not connected, or nil.
func (h *health) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

func (p *presence) backlog() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dirty)
}

// arrivals measures the listener. It has the offset of one of our flushes at a time and when it began: when
// that comes back, the difference is the lag.
type arrivals struct {
	messages atomic.Uint64
	last     atomic.Int64 // when the last notification came, in nanoseconds since 1970; 0 for never
	at       atomic.Uint64
	offset   atomic.Uint64 // of the flush whose return is measured; 0 for none
	began    atomic.Int64
	lag      histogram

	committed atomic.Uint64 // offset of the last flush

	returns returns // of traced publishes
}

func (a *arrivals) heard() { a.last.Store(time.Now().UnixNano()) }

func (a *arrivals) age() float64 {
	last := a.last.Load()
	if last == 0 {
		return -1
	}
	return time.Since(time.Unix(0, last)).Seconds()
}

// delivered is called by the one goroutine that hands messages to the hub.
func (a *arrivals) delivered(messages []Message) {
	a.messages.Add(uint64(len(messages)))
	at := messages[len(messages)-1].Offset
	if at == 0 {
		return
	}
	a.at.Store(at)
	a.returns.delivered(at)
	if want := a.offset.Load(); want != 0 && at >= want && a.offset.CompareAndSwap(want, 0) {
		a.lag.observe(time.Since(time.Unix(0, a.began.Load())).Seconds())
	}
}

// sent notes a flush that began then and whose last message has this offset. One that has come back already,
// which is usual, is measured at once: what is missing is the time that our own commit's reply took.
func (a *arrivals) sent(offset uint64, began time.Time) {
	a.committed.Store(offset)
	if a.at.Load() >= offset {
		last := a.last.Load()
		a.lag.observe(max(0, time.Unix(0, last).Sub(began).Seconds()))
		return
	}
	if a.offset.Load() == 0 {
		a.began.Store(began.UnixNano())
		a.offset.Store(offset)
	}
}

// flushStats are the publisher's own.
type flushStats struct {
	arrivals  *arrivals // of the hub that its messages come back to; nil without one
	published atomic.Uint64
	failed    atomic.Uint64
	messages  histogram
	seconds   histogram
}

func newFlushStats() *flushStats { return &flushStats{messages: histogram{scale: 1}} }

func (f *flushStats) flushed(messages []Message, began time.Time, err error) {
	if err != nil {
		f.failed.Add(1)
		return
	}
	f.published.Add(uint64(len(messages)))
	f.messages.observe(float64(len(messages)))
	f.seconds.observe(time.Since(began).Seconds())
	for i := len(messages) - 1; i >= 0 && f.arrivals != nil; i-- {
		if messages[i].Offset != 0 {
			f.arrivals.sent(messages[i].Offset, began)
			return
		}
	}
}

func (f *flushStats) snapshot() FlushStats {
	return FlushStats{Failed: f.failed.Load(), Messages: f.messages.snapshot(), Seconds: f.seconds.snapshot()}
}

// NodeInfo describes a replica at one moment.
type NodeInfo struct {
	ID            string        `json:"id"` // unique to this run of the process
	Name          string        `json:"name"`
	Version       string        `json:"version"`
	Clients       int           `json:"clients"`
	Users         int           `json:"users"`
	Channels      int           `json:"channels"`
	Subscriptions int           `json:"subscriptions"`
	Uptime        time.Duration `json:"uptime"`
}

// Info describes this replica now.
func (n *Node) Info() NodeInfo {
	s := n.hub.sum()
	return NodeInfo{ID: n.id, Name: n.cfg.Name, Version: n.cfg.Version, Clients: int(n.hub.count.Load()), Users: s.users,
		Channels: s.channels, Subscriptions: s.subscriptions, Uptime: time.Since(n.started)}
}
