package realtime

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/centrifugal/protocol"
)

// maxEvents bounds a shard's queue, in notifications. The follower waits when it is full.
const maxEvents = 256

// Bounds of what is handed on in one go, in bytes: then clients are written to.
const (
	maxGather = 256 << 10 // of data
	maxCopied = 16 << 20  // of what clients get: from a second frame on each has a copy of its own
)

// Timing of connections, in ticks of a second. One ticker a shard serves all of its clients: an idle
// connection has no timer.
const (
	pingInterval  = 25 // also told to the client, which expects a ping that often
	pongTimeout   = 10
	staleTimeout  = 15 // from the handshake to the connect command
	expiredLeeway = 25 // from the end of a token to the end of its connection: time to refresh
)

// event is what the follower tells the shards.
type event struct {
	log    int // the place of the log that it is about
	bursts []*burst
	at     uint64 // the log's position after the event
	epoch  string // with reset
	lost   bool   // the log went back to at
	reset  bool   // nobody's position is good: this is where the log is now

	handled func() // called by each shard when it has dealt with it; nil where nobody waits
}

// A channel is what a shard knows of a channel: it has at least one subscription.
type channel struct {
	log  int    // the place of the log that has it
	last uint64 // the newest message handed to the subscriptions
	subs map[*subscription]struct{}
}

// A subscription is one client's on one channel. Guarded by its shard's mu.
type subscription struct {
	client  *client
	channel string
	view    *view     // nil for a plain one
	from    uint64    // the client has everything up to here
	live    bool      // false while the past is read from the log
	held    []*burst  // what arrived meanwhile
	holds   int       // its size, in bytes
	lost    bool      // what was read or held is not whole: the client must subscribe again
	server  bool      // the server made it, not the client
	hidden  bool      // a hook keeps it out of the channel's presence
	asking  bool      // the sub_refresh hook is being asked
	info    []byte    // JSON, shown to others of the channel
	expires time.Time // when it must be renewed; zero for never
	token   bool      // by the client, with a token
	judged  time.Time
	ends    time.Time // zero for never
	place   int       // in the shard's expiring; 0 for none

	hears  bool                 // it gets joins and leaves
	member *protocol.ClientInfo // who is present; nil if nobody is: see presence
}

// shard owns a share of the clients. One goroutine hands to them what the log brings, in batches: whatever
// came while it wrote the last batch goes out as one write to each client.
type shard struct {
	events chan event

	mu       sync.Mutex
	clients  map[*client]struct{} // guarded by mu, like all below
	users    map[string]map[*client]struct{}
	channels map[string]*channel
	heads    []Position // of each log: everything up to here was handed on; without an epoch until it was reached for the first time
	tick     int        // seconds since the start
	expiring expiries
	waits    map[*wait]struct{} // of commands, for their turn
	sent     uint64             // messages given to clients
	touched  []*client          // who has something gathered
	copied   int                // bytes of it that are a client's own

	// watch is told of each channel that gets its first subscription here, and loses its last. Fixed; nil for
	// nobody. The caller holds mu.
	watch func(channel string, here bool)
}

func newShard(logs int) *shard {
	return &shard{
		events:   make(chan event, maxEvents),
		clients:  map[*client]struct{}{},
		users:    map[string]map[*client]struct{}{},
		channels: map[string]*channel{},
		heads:    make([]Position, logs),
		waits:    map[*wait]struct{}{},
		tick:     pingInterval,
	}
}

func (s *shard) run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case e := <-s.events:
			s.handle(e)
		case now := <-ticker.C:
			s.beat(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// handle deals with e and all that waits behind it, and then writes to each client once.
func (s *shard) handle(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for more := true; more; {
		switch {
		case e.reset:
			s.flush()
			s.invalidate(e.log, 0)
			s.heads[e.log].Epoch = e.epoch
		case e.lost:
			s.flush()
			s.invalidate(e.log, e.at)
		default:
			size += s.gather(e.bursts)
		}
		if e.reset || e.lost || e.at != 0 {
			s.heads[e.log].Offset = e.at
		}
		if e.handled != nil {
			e.handled()
		}
		if more = size < maxGather; more {
			select {
			case e = <-s.events:
			default:
				more = false
			}
		}
	}
	s.flush()
}

// gather collects what each client gets of bursts, and returns their size.
func (s *shard) gather(bursts []*burst) (size int) {
	for _, b := range bursts {
		size += b.size
		ch := s.channels[b.channel]
		if ch == nil || b.last != 0 && ch.log != b.log { // what another log may hold of it is from before it moved
			continue
		}
		ch.last = max(ch.last, b.last)
		for sub := range ch.subs {
			switch {
			case sub.lost:
			case !sub.live:
				sub.hold(b)
			case b.news != nil && !sub.hears:
			default:
				if f := sub.frame(b); f != nil {
					s.give(sub.client, f)
					s.sent += uint64(len(b.messages))
				}
			}
		}
	}
	return size
}

// frame is what the client gets of b, or nil.
func (sub *subscription) frame(b *burst) []byte {
	if sub.view != nil && b.news == nil {
		return sub.view.frame(b, sub.client.format, sub.from)
	}
	return b.frameAfter(sub.client.format, sub.from)
}

// hold keeps a burst until the past has been read. A subscription that holds too much starts anew.
func (sub *subscription) hold(b *burst) {
	sub.holds += b.size
	if sub.holds > maxPending {
		sub.lost, sub.held = true, nil
		return
	}
	sub.held = append(sub.held, b)
}

// release makes a subscription live and gives its client what was held. The caller holds mu.
func (s *shard) release(sub *subscription) {
	sub.live = true
	sub.arrive()
	for _, b := range sub.held {
		if b.news != nil && !sub.hears {
			continue
		}
		if f := sub.frame(b); f != nil {
			s.give(sub.client, f)
		}
	}
	sub.held = nil
	s.flush()
}

// give adds a frame to what a client gets with the next flush, which may be now.
func (s *shard) give(c *client, f []byte) {
	switch {
	case c.first == nil:
		c.first = f
		s.touched = append(s.touched, c)
	case c.rest == nil:
		c.rest = append(append(c.rest, c.first...), f...)
		s.copied += len(c.rest)
	default:
		c.rest = append(c.rest, f...)
		s.copied += len(f)
	}
	if s.copied >= maxCopied {
		s.flush()
	}
}

// flush writes what was gathered, with one write to each client, of the shared frame itself if that is all.
func (s *shard) flush() {
	for _, c := range s.touched {
		b := c.first
		if c.rest != nil {
			b = c.rest
		}
		c.first, c.rest = nil, nil
		c.send(b)
	}
	clear(s.touched)
	s.touched, s.copied = s.touched[:0], 0
}

// invalidate makes every client whose position in a log is beyond survived subscribe again: it may hold what is
// lost, and is then told recovered: false.
func (s *shard) invalidate(log int, survived uint64) {
	for _, ch := range s.channels {
		if ch.log != log {
			continue
		}
		for sub := range ch.subs {
			if max(sub.from, ch.last) <= survived {
				continue
			}
			s.end(sub, unsubscribeInsufficient, unsubscribeInsufficientReason)
		}
		ch.last = min(ch.last, survived)
	}
}

// subscribe adds a subscription that is not live yet. The caller holds mu.
func (s *shard) subscribe(sub *subscription) {
	ch := s.channels[sub.channel]
	if ch == nil {
		ch = &channel{log: PlaceOf(sub.channel, len(s.heads)), subs: map[*subscription]struct{}{}}
		s.channels[sub.channel] = ch
		if s.watch != nil {
			s.watch(sub.channel, true)
		}
	}
	ch.subs[sub] = struct{}{}
	sub.client.subs[sub.channel] = sub
}

// unsubscribe removes a subscription if it is there. The caller holds mu.
func (s *shard) unsubscribe(sub *subscription) {
	s.expiring.set(sub, time.Time{})
	if sub.client.subs[sub.channel] == sub {
		delete(sub.client.subs, sub.channel)
	}
	if ch := s.channels[sub.channel]; ch != nil {
		if delete(ch.subs, sub); len(ch.subs) == 0 {
			delete(s.channels, sub.channel)
			if s.watch != nil {
				s.watch(sub.channel, false)
			}
		}
	}
	sub.depart()
}

// lifetime is after how many ticks a client is told to reconnect. Those that came together go apart: jitter, from 0 to
// 1, spreads them over the last tenth of the age.
func lifetime(age time.Duration, jitter float64) int {
	return max(1, int(age.Seconds()*(0.9+0.1*jitter)))
}

// add takes a client in. Its first ping is spread over the interval, so that clients that reconnect
// together are not pinged together.
func (s *shard) add(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.staleAt = s.tick + staleTimeout
	if age := c.node.cfg.MaxConnectionAge; age > 0 {
		c.oldAt = s.tick + lifetime(age, rand.Float64())
	}
	c.pingAt = s.tick + 1 + rand.IntN(pingInterval)
	s.clients[c] = struct{}{}
}

func (s *shard) remove(c *client) {
	if c.counted {
		defer c.node.users.leave(c.user)
	}
	if c.known {
		defer c.exit()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range c.subs {
		sub.lost = true // whoever reads its past has nobody to give it to
		s.unsubscribe(sub)
	}
	delete(s.clients, c)
	if c.connected && !c.operator {
		c.node.webhooks.disconnected(c)
	}
	if s.users[c.user] != nil {
		if delete(s.users[c.user], c); len(s.users[c.user]) == 0 {
			delete(s.users, c.user)
		}
	}
}

// identified marks a client as its user's: from now on what concerns the user reaches it. The caller holds mu.
func (s *shard) identified(c *client) {
	if s.users[c.user] == nil {
		s.users[c.user] = map[*client]struct{}{}
	}
	s.users[c.user][c] = struct{}{}
}

// beat runs every second: pings that are due, pongs that are overdue, tokens that have ended, and
// connections that never said connect.
func (s *shard) beat(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick++
	s.expire(now)
	s.callOff()
	for c := range s.clients {
		if d := c.guard.beat(); d != nil {
			c.disconnect(d)
		}
		switch {
		case !c.connected:
			if s.tick >= c.staleAt {
				c.disconnect(disconnectStale)
			}
		case c.refreshDue(now):
			c.startRefresh()
		case !c.expires.IsZero() && now.After(c.over()):
			c.disconnect(disconnectExpired)
		case c.oldAt != 0 && s.tick >= c.oldAt:
			c.disconnect(disconnectOld)
		case c.pongBy != 0 && c.ponged.Load():
			c.pongBy = 0
		case c.pongBy != 0 && c.busy.Load():
			c.pongBy = max(c.pongBy, s.tick+pongTimeout/2) // it may be in the socket
		case c.pongBy != 0 && s.tick >= c.pongBy:
			c.disconnect(disconnectNoPong)
		}
		if c.connected && s.tick >= c.pingAt {
			c.pingAt = s.tick + pingInterval
			if c.format != events { // such a client cannot answer
				c.pongBy = s.tick + pongTimeout
				c.ponged.Store(false)
			}
			c.send(pings[c.format])
		}
	}
}
