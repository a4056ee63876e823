package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Timing of webhooks.
const (
	vacatedAfter   = 3 * time.Second        // a channel whose last subscriber comes back in this time stays occupied
	connectedAfter = time.Second            // a connection that ends sooner is not reported at all
	flushEvery     = 200 * time.Millisecond // at most: what came meanwhile is inserted together
	flushRetry     = time.Second            // the database is away
	lease          = 30 * time.Second       // then a replica's share of the occupancy is nobody's
	renewEvery     = lease / 3
)

// Bounds of webhooks.
const (
	maxConnectionEvents = 1 << 16 // in memory while the database is away; more are dropped, and counted
	maxEventsInRequest  = 500
	minWebhookSecret    = 16
)

// The names of events, as receivers get them.
const (
	eventOccupied     = "channel_occupied"
	eventVacated      = "channel_vacated"
	eventConnected    = "client_connected"
	eventDisconnected = "client_disconnected"
)

// webhookEvent is one event, as receivers get it.
type webhookEvent struct {
	Name    string `json:"name"`
	Channel string `json:"channel,omitempty"`
	Client  string `json:"client,omitempty"`
	User    string `json:"user,omitempty"`
	TimeMS  int64  `json:"time_ms"` // when it happened: of channels by the database's clock
}

// occupant is a channel that this replica has, or had just now, subscribers of.
type occupant struct {
	shards   int       // that have some
	left     time.Time // when the last one left
	recorded bool      // in the database
}

// webhooks tells a team's backend which channels are occupied, over all replicas, and who connects. This half
// turns what happens here into events in the database, in few transactions; delivery sends them from there.
// The methods are safe for concurrent use and do nothing on a nil *webhooks.
type webhooks struct {
	pool     *pgxpool.Pool
	logger   *slog.Logger
	replica  string
	delivery *delivery
	stats    *stats
	woken    chan struct{} // capacity 1

	mu        sync.Mutex
	channels  map[string]*occupant
	arriving  map[string]webhookEvent // connections that are too young to be reported, by client
	events    []webhookEvent          // of connections; those of channels are made from the occupancy
	announced bool                    // the loss of events was logged
	unsure    bool                    // the database may have something else of us: say everything
	look      bool                    // other replicas have changed something
}

// checkWebhooks says what is wrong with the configuration.
func checkWebhooks(cfg Config) error {
	if cfg.WebhookURL == "" {
		for _, o := range cfg.Namespaces.all() {
			if o.Webhooks {
				return errors.New("realtime: a namespace has webhooks, but there is no receiver: set FORGEWIRE_WEBHOOK_URL")
			}
		}
		return nil
	}
	u, err := url.Parse(cfg.WebhookURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("realtime: the webhook URL is not an http:// or https:// URL")
	}
	if len(cfg.WebhookSecret) < minWebhookSecret {
		return fmt.Errorf("realtime: the webhook secret is shorter than %d bytes", minWebhookSecret)
	}
	return nil
}

// newWebhooks returns nil where no receiver is configured.
func newWebhooks(n *Node) (*webhooks, error) {
	if n.cfg.WebhookURL == "" {
		return nil, nil //nolint:nilnil // a nil *webhooks is one that does nothing
	}
	d, err := newDelivery(n)
	if err != nil {
		return nil, err
	}
	w := &webhooks{pool: n.cfg.Pool, logger: n.logger, replica: n.id, delivery: d, stats: &n.stats, woken: make(chan struct{}, 1),
		channels: map[string]*occupant{}, arriving: map[string]webhookEvent{}}
	for _, s := range n.hub.shards {
		s.watch = func(channel string, here bool) {
			if n.cfg.Namespaces.of(channel).Webhooks {
				w.occupied(channel, here)
			}
		}
	}
	return w, nil
}

// run works until ctx ends, and then says goodbye.
func (w *webhooks) run(ctx context.Context) error {
	if w == nil {
		return nil
	}
	defer w.delivery.client.CloseIdleConnections()
	return w.record(ctx)
}

func (w *webhooks) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// reconnected is called whenever the listener has connected: until then nobody could tell us anything, and
// the database may have gone back.
func (w *webhooks) reconnected() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.unsure = true
	w.mu.Unlock()
	w.wake()
}

// queued is called when some replica has inserted requests.
func (w *webhooks) queued() {
	if w != nil {
		w.delivery.queue.Wake()
	}
}

// told is called when some replica has begun to have channels, or is leaving.
func (w *webhooks) told() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.look = true
	w.mu.Unlock()
	w.wake()
}

// occupied is called when a shard gets a channel's first subscriber, or has lost the last.
func (w *webhooks) occupied(channel string, here bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.channels[channel]
	if o == nil {
		o = &occupant{}
		w.channels[channel] = o
	}
	if here {
		o.shards++
		if !o.recorded {
			w.wake()
		}
		return
	}
	if o.shards--; o.shards == 0 {
		o.left = time.Now()
		w.wake()
	}
}

// connected is called when a client has said who it is.
func (w *webhooks) connected(c *client) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arriving[c.id] = webhookEvent{Name: eventConnected, Client: c.id, User: c.user, TimeMS: time.Now().UnixMilli()}
	w.wake()
}

// disconnected is called when a client that was connected is gone.
func (w *webhooks) disconnected(c *client) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now().UnixMilli()
	if e, arriving := w.arriving[c.id]; arriving {
		delete(w.arriving, c.id)
		if now < e.TimeMS+connectedAfter.Milliseconds() {
			return
		}
		w.add(e) // it is not young: a write has taken its time
	}
	w.add(webhookEvent{Name: eventDisconnected, Client: c.id, User: c.user, TimeMS: now})
	w.wake()
}

// add keeps a connection's event until the next flush. The caller holds mu.
func (w *webhooks) add(e webhookEvent) {
	if len(w.events) < maxConnectionEvents {
		w.events = append(w.events, e)
		return
	}
	w.stats.webhooks.dropped.Add(1)
	if !w.announced {
		w.announced = true
		w.logger.Error("the database has been away for too long: events of connections are lost to the webhooks")
	}
}

// webhookBody is what receivers get.
type webhookBody struct {
	TimeMS int64          `json:"time_ms"` // when the events were recorded
	Events []webhookEvent `json:"events"`
}

// encode returns the bytes that are signed and sent.
func (b webhookBody) encode() ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode a webhook: %w", err)
	}
	return text, nil
}
