package realtime

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/go-chi/chi/v5/middleware"
	lru "github.com/hashicorp/golang-lru/v2"
)

// A client may send as many commands at once as it needs to subscribe to all of its channels again after a
// reconnect. One that goes on when it is told to stop is disconnected after commandDebt more.
const (
	commandBurst = maxChannelsPerClient + 200
	commandDebt  = 200
)

// bucket is a token bucket: rate a second on average, burst at once. The zero value is full. What it refuses
// is counted as debt, so that who insists waits longer. Owned by one goroutine at a time.
type bucket struct {
	tokens float64
	at     time.Time
}

// take reports whether one more is allowed.
func (b *bucket) take(now time.Time, rate, burst float64) bool {
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	b.tokens--
	return b.tokens >= 0
}

// try is take without the debt: what is refused costs nothing.
func (b *bucket) try(now time.Time, rate, burst float64) bool {
	ok := b.take(now, rate, burst)
	if !ok {
		b.tokens++
	}
	return ok
}

// throttle says whether a command is one too many: it is then answered with an error, and a client that goes
// on all the same is disconnected.
func (c *client) throttle(cmd *protocol.Command) (refused bool, d *Disconnect) {
	rate := c.node.cfg.CommandRate
	if rate == 0 || c.commands.take(time.Now(), float64(rate), commandBurst) {
		return false, nil
	}
	if c.commands.tokens < -commandDebt {
		return true, disconnectTooMany
	}
	if cmd.Id != 0 {
		c.reply(&protocol.Reply{Id: cmd.Id, Error: ErrTooManyRequests.reply()})
	}
	return true, nil
}

// mayPublishNow keeps a client to its namespace's publish_rate.
func (c *client) mayPublishNow(channel string, o ChannelOptions) bool {
	if o.PublishRate == 0 {
		return true
	}
	name, _ := c.node.cfg.Namespaces.find(channel)
	if c.publishes == nil {
		c.publishes = map[string]*bucket{} // no larger than the configuration
	}
	if c.publishes[name] == nil {
		c.publishes[name] = &bucket{}
	}
	return c.publishes[name].try(time.Now(), float64(o.PublishRate), float64(o.PublishRate))
}

// tally counts connections by something. The zero value is ready; safe for concurrent use.
type tally[K comparable] struct {
	mu sync.Mutex
	n  map[K]int
}

// enter counts one in, unless there are limit already.
func (t *tally[K]) enter(key K, limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n[key] >= limit {
		return false
	}
	if t.n == nil {
		t.n = map[K]int{}
	}
	t.n[key]++
	return true
}

func (t *tally[K]) leave(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n[key]--; t.n[key] <= 0 {
		delete(t.n, key)
	}
}

// rememberedAddresses bounds what is known of how often addresses came. The one that was not seen for longest
// goes: with it goes a bucket that is full again, unless that many came within a second or two.
const rememberedAddresses = 50_000

// gate keeps one address from taking all connections. Safe for concurrent use.
type gate struct {
	mu     sync.Mutex
	rates  *lru.Cache[netip.Prefix, *bucket] // guarded by mu, also what is in it
	counts tally[netip.Prefix]
}

func newRates() (*lru.Cache[netip.Prefix, *bucket], error) {
	rates, err := lru.New[netip.Prefix, *bucket](rememberedAddresses)
	if err != nil {
		return nil, fmt.Errorf("make the memory of addresses: %w", err)
	}
	return rates, nil
}

// admit counts a request that would become a connection in, or answers it with 429. leave must be called once
// when the connection ends.
func (n *Node) admit(w http.ResponseWriter, r *http.Request) (leave func(), ok bool) {
	if n.cfg.MaxIPHandshakes == 0 && n.cfg.MaxIPConnections == 0 {
		return func() {}, true
	}
	from := AddressOf(r)
	if n.cfg.MaxIPHandshakes > 0 && !n.gate.knock(from, n.cfg.MaxIPHandshakes) {
		return nil, tooMany(w)
	}
	if n.cfg.MaxIPConnections == 0 {
		return func() {}, true
	}
	if !n.gate.counts.enter(from, n.cfg.MaxIPConnections) {
		return nil, tooMany(w)
	}
	return func() { n.gate.counts.leave(from) }, true
}

func tooMany(w http.ResponseWriter) bool {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many connections from this address", http.StatusTooManyRequests)
	return false
}

// knock counts one more that an address wants.
func (g *gate) knock(from netip.Prefix, rate int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.rates.Get(from)
	if !ok {
		b = &bucket{}
		g.rates.Add(from, b)
	}
	return b.try(time.Now(), float64(rate), 2*float64(rate))
}

// AddressOf is where a request comes from: what the middleware found in the header that the operator trusts,
// else the peer's own address. Of IPv6 it is the network, of which each customer has a whole one.
func AddressOf(r *http.Request) netip.Prefix {
	a := middleware.GetClientIPAddr(r.Context())
	if !a.IsValid() {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr) // invalid, and one bucket for all, where there is none
		a = peer.Addr()
	}
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails for an invalid address alone
	return p
}
