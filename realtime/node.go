package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
)

// protobufSubprotocol is how a client asks for the binary form of the protocol.
const protobufSubprotocol = "centrifuge-protobuf"

// maintainEvery is how often a replica that sees messages makes partitions and retires old ones.
const maintainEvery = time.Minute

// Config says how a Node works. All of it is fixed once New has it.
type Config struct {
	Pool *pgxpool.Pool
	// PublishPool is a small pool for the publisher, presence and the like, so that they wait behind no query;
	// nil: Pool.
	PublishPool *pgxpool.Pool
	ListenURL   string // the server itself, not a pooler in transaction mode
	// Logs are further logs, over which and the first one channels are spread. They are the same, in the same order, on
	// every replica. Everything else that replicas share lives in the first.
	Logs    []LogConfig
	Logger  *slog.Logger
	Name    string // of this replica, for people
	Version string // told to clients

	Tokens              TokenConfig
	AllowAnonymous      bool
	AllowedOrigins      []string // host patterns beside the request's own host
	Namespaces          *Namespaces
	Hooks               *Hooks // nil for none
	WebhookURL          string // where events are sent; "" for nowhere
	WebhookSecret       string // that they are signed with
	MaxConnections      int
	MaxUserConnections  int // of one user on this replica; 0 for no limit, as for those below
	MaxIPConnections    int // of one address on this replica
	MaxIPHandshakes     int // a second, of one address
	CommandRate         int // commands a second, of one client
	MaxPublicationBytes int
	RetentionAge        time.Duration
	RetentionBytes      int64
	MaxConnectionAge    time.Duration // by which a client is told to reconnect; 0: never
	IdleRelease         time.Duration // of not being used, after which the database is left alone; 0: never
	Shedding            func() bool   // no connection is accepted while it says so; nil for never
	ShutdownTimeout     time.Duration // in which all clients are told to reconnect elsewhere
}

// Node is one replica's realtime half: everything from the log to the sockets.
type Node struct {
	cfg        Config
	logger     *slog.Logger
	strands    []*strand    // the logs; fixed
	foreign    atomic.Bool  // the databases have recorded another set of logs: nothing is served
	forwarders []*forwarder // to each log but the first
	hub        *hub
	drainer    *drainer
	presence   *presence
	counts     together[PresenceStats] // of channels' members
	surveys    *surveys
	pending    atomic.Int64 // see ShrinkBuffers
	gather     atomic.Pointer[func() []byte]
	stats      stats
	watched    chan struct{} // capacity 1; see Watched
	sessions   sessions
	relay      *relay
	forwarding *forwarding
	rest       *rest
	hooks      Hooks
	webhooks   *webhooks // nil for none
	queue      *db.Queue
	hearers    map[string][]func([]byte) // by topic; fixed once Run has begun
	joined     map[string]func(string)   // by namespace; fixed once Run has begun

	verifier    *verifier
	revocations revocations
	skew        atomic.Int64 // see readClock, in nanoseconds
	authorizer  *authorizer  // nil where no namespace asks the database
	users       tally[string]
	gate        gate
	sockets     atomic.Int64 // WebSockets
	known       atomic.Int64 // clients that have said who they are: for others this replica does nothing

	id      string
	started time.Time

	life    context.Context // of the connections: ends after they were told to go
	endLife context.CancelFunc
	clients sync.WaitGroup
	workers workers
	watcher *watcher // nil where there is none

	accepting sync.RWMutex  // held while a connection is counted, so that none is after draining
	draining  chan struct{} // closed when no connection is accepted any more
	refuse    sync.Once     // closes it
}

// New makes a Node; Run starts it.
func New(cfg Config) (n *Node, err error) {
	if cfg.Pool == nil || cfg.Logger == nil || cfg.Namespaces == nil {
		return nil, errors.New("realtime: Pool, Logger and Namespaces are required")
	}
	if cfg.MaxConnections <= 0 || cfg.MaxPublicationBytes <= 0 || cfg.RetentionAge <= 0 || cfg.RetentionBytes <= 0 || cfg.ShutdownTimeout <= 0 {
		return nil, errors.New("realtime: every limit must be positive")
	}
	if cfg.PublishPool == nil {
		cfg.PublishPool = cfg.Pool
	}
	n = &Node{cfg: cfg, logger: cfg.Logger, hub: newHub(1 + len(cfg.Logs)),
		id: uuid.NewString(), started: time.Now(), draining: make(chan struct{}), watched: make(chan struct{}, 1), hearers: map[string][]func([]byte){}, joined: map[string]func(string){}}
	if err = n.guard(); err != nil {
		return nil, err
	}
	if err = n.reachOut(); err != nil {
		return nil, err
	}
	n.relay = newRelay(cfg.PublishPool)
	n.drainer = newDrainer(cfg.ListenURL, n.logger, func() int64 { return n.strands[0].log.generation.Load() }, func() {
		for _, f := range n.forwarders {
			f.ring()
		}
	})
	n.presence = newPresence(cfg.PublishPool, n.logger, n.id, cfg.Name, func() bool { return n.known.Load() > 0 },
		func(channel string) bool { return cfg.Namespaces.of(channel).JoinLeave })
	n.counts.within = presenceTimeout
	n.surveys = newSurveys()
	n.rest = newRest(cfg.IdleRelease, func() bool { return n.drainer.busy.Load() || n.forwards() })
	n.spread()
	n.life, n.endLife = context.WithCancel(context.Background())
	n.workers.ready = make(chan *conn)
	if n.watcher, err = newWatcher(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, fmt.Errorf("realtime: %w", err)
	}
	return n, nil
}

// forwards says whether something is on its way to another log.
func (n *Node) forwards() bool {
	return slices.ContainsFunc(n.forwarders, func(f *forwarder) bool { return f.busy.Load() })
}

// spread makes what serves each log.
func (n *Node) spread() {
	logs := append([]LogConfig{{Pool: n.cfg.Pool, PublishPool: n.cfg.PublishPool, ListenURL: n.cfg.ListenURL}}, n.cfg.Logs...)
	for place, cfg := range logs {
		if cfg.PublishPool == nil {
			cfg.PublishPool = cfg.Pool
		}
		in := n.hub.in[place]
		in.tail.age = n.cfg.RetentionAge
		s := newStrand(place, len(logs), cfg, n.logger, in)
		l := s.listener
		l.control, l.bell, l.back, l.letGo, l.wake, l.relearn = n.handleControl, func(string) {}, func() {}, func() {}, func() {}, func(ctx context.Context, q querier) error {
			err := s.readHidden(ctx, q)
			if err == nil {
				n.missed()
			}
			return err
		}
		l.verify = func(ctx context.Context, q querier) error { return n.verify(ctx, q, s) }
		l.rest = newRest(0, func() bool { return true })
		n.strands = append(n.strands, s)
	}
	for _, s := range n.strands[1:] {
		n.forwarders = append(n.forwarders, newForwarder(n.strands[0], s))
	}
	first := n.strands[0].listener
	first.bell, first.back, first.relearn, first.rest, first.letGo = n.drainer.ring, n.relisten, n.relearn, n.rest, n.letGo
	first.wake = func() {
		for _, s := range n.strands[1:] {
			s.resume()
		}
	}
}

// reachOut makes what calls the team's backend.
func (n *Node) reachOut() (err error) {
	if n.cfg.Hooks != nil {
		n.hooks = *n.cfg.Hooks
	}
	if err = n.hooks.check(n.cfg.Namespaces); err != nil {
		return fmt.Errorf("realtime: %w", err)
	}
	if err = checkWebhooks(n.cfg); err != nil {
		return err
	}
	if n.queue, err = db.NewQueue(n.cfg.Pool, n.logger); err != nil {
		return fmt.Errorf("realtime: %w", err)
	}
	n.Hear(db.QueueTopic, func([]byte) { n.queue.Wake() })
	n.webhooks, err = newWebhooks(n)
	return err
}

// relisten is called whenever the listener has connected.
func (n *Node) relisten() {
	n.presence.check()
	n.webhooks.reconnected()
}

// relearn reads what other replicas told while this one did not listen.
func (n *Node) relearn(ctx context.Context, q querier) error {
	if err := errors.Join(n.readClock(ctx, q), n.readRevocations(ctx, q)); err != nil {
		return err
	}
	if err := n.strands[0].readHidden(ctx, q); err != nil {
		return err
	}
	n.missed()
	return nil
}

// guard makes what decides who may do what.
func (n *Node) guard() (err error) {
	n.verifier = newVerifier(n.cfg.Tokens, n.logger)
	if n.cfg.Namespaces.authorize() {
		if n.authorizer, err = newAuthorizer(n.cfg.Pool); err != nil {
			return err
		}
	}
	if n.forwarding, err = newForwarding(n.leasesOfOthers, n.cfg.CommandRate); err != nil {
		return err
	}
	n.gate.rates, err = newRates()
	return err
}

// Queue is that of the jobs which replicas do in the background. Workers are added to it before Run.
func (n *Node) Queue() *db.Queue { return n.queue }

// Check says what is wrong with a message, as an *Error, or nil. It removes white space from its data.
func (n *Node) Check(m *Message) error {
	if err := check(m, n.cfg.MaxPublicationBytes); err != nil {
		return err
	}
	if namespaceOf(m.Channel) == OperatorNamespace {
		return errOperatorsOnly
	}
	m.ephemeral = m.ephemeral || n.cfg.Namespaces.of(m.Channel).Ephemeral
	if m.ephemeral && m.Key != "" {
		return ErrBadRequest.With("an ephemeral channel keeps nothing, no idempotency key either")
	}
	if m.ephemeral && len(m.Channel)+len(m.Data)+len(m.Meta.encode()) > maxEphemeral {
		return ErrLimitExceeded.With(fmt.Sprintf("an ephemeral message is larger than %d bytes", maxEphemeral))
	}
	return nil
}

// Publish appends messages in order and returns them with their offsets. Those whose channels are in one log are
// appended in one transaction. What is wrong with a message is an *Error that is not temporary, and nothing is published.
// After any other error nobody knows whether it was.
func (n *Node) Publish(ctx context.Context, messages ...Message) ([]Message, error) {
	if sizeOf(messages) > maxTogether { // before Check, which may copy
		return nil, ErrLimitExceeded.With(fmt.Sprintf("what is published at once is larger than %d bytes, each channel's data counted", maxTogether))
	}
	for i := range messages {
		if err := n.Check(&messages[i]); err != nil {
			return nil, err
		}
	}
	if len(n.strands) == 1 || len(messages) == 0 {
		return n.strands[0].publish(ctx, messages)
	}
	return n.publishSpread(ctx, messages)
}

// History reads a channel's past. An ephemeral channel has none.
func (n *Node) History(ctx context.Context, channel string, f HistoryFilter) (History, error) {
	if why := checkChannel(channel); why != "" {
		return History{}, ErrBadRequest.With(why)
	}
	if n.cfg.Namespaces.of(channel).Ephemeral {
		return History{}, ErrNotAvailable.With("the channel is ephemeral")
	}
	f.kept = n.cfg.Namespaces.of(channel).kept()
	s := n.strandOf(channel)
	h, err := s.log.History(ctx, channel, f)
	return h, s.blame(err)
}

// Epoch is that of a channel's log; "" until it was reached for the first time.
func (n *Node) Epoch(channel string) string {
	if epoch := n.strandOf(channel).in.known.Load(); epoch != nil {
		return *epoch
	}
	return ""
}
