package llm

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/cache"
)

// TTLs are how long answers are kept, by class.
type TTLs struct{ Prompt, Evaluation, System time.Duration }

// Config says how a Service works. All of it is fixed once New has it.
type Config struct {
	Upstreams Upstreams
	Cache     *cache.Cache
	Pool      *pgxpool.Pool // for elections
	Log       Log           // what answers travel through between replicas
	LogKept   time.Duration // how long Log has what it was given
	Bus       Bus           // joins the replicas; nil means that this one is alone
	Logger    *slog.Logger
	Mode      Mode
	TTLs      TTLs
	// MaxMessageBytes is the largest message that Log takes.
	MaxMessageBytes int
	Record          Record  // nil keeps nothing
	Reserve         Reserve // nil lets all through
	// Transport puts something around the transport to upstreams, such as traces; nil for nothing.
	Transport func(http.RoundTripper) http.RoundTripper
	Grace     time.Duration // in which answers under way may end when the replica stops
}

// Bounds of what one replica generates at once.
const maxFlights = 4096

// fallbackTTL is how long the answer of a fallback is kept: not much longer than what it stands in for is away.
const fallbackTTL = 5 * time.Minute

// staleFor is how long after its time an answer may stand in for an upstream that fails.
const staleFor = 7 * 24 * time.Hour

// Service is one replica's endpoint for language models.
type Service struct {
	cfg      Config
	client   *client
	elector  *elector
	stats    *statistics
	odds     odds
	life     context.Context // of the flights
	endLife  context.CancelCauseFunc
	underWay sync.WaitGroup // flights
	resumes  atomic.Int64   // requests that resume, now

	writeWithin, quietFor time.Duration // of clients; tests have less

	mu      sync.Mutex
	flights map[key]*flight    // that may be joined; guarded by mu, like all below
	byID    map[string]*flight // all
	bids    map[key]*bid       // elections that no flight has taken over yet
	closed  bool
}

var errStopping = errors.New("this replica is shutting down")

// New makes a Service; Run starts it.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Cache == nil || cfg.Pool == nil || cfg.Log == nil || cfg.Logger == nil:
		return nil, errors.New("llm: Cache, Pool, Log and Logger are required")
	case len(cfg.Upstreams.List) == 0:
		return nil, errors.New("llm: no upstream")
	case cfg.TTLs.Prompt <= 0 || cfg.TTLs.Evaluation <= 0 || cfg.TTLs.System <= 0 || cfg.MaxMessageBytes < 1024 || cfg.Grace <= 0:
		return nil, errors.New("llm: every limit must be positive")
	case cfg.Mode != CacheAll && cfg.Mode != CacheDeterministic && cfg.Mode != CacheOff:
		return nil, errors.New("llm: unknown mode")
	}
	if cfg.Record == nil {
		cfg.Record = func(Run) {}
	}
	if cfg.Reserve == nil {
		cfg.Reserve = func(Caller, int64, int64) (func(), *Refusal) { return func() {}, nil }
	}
	s := &Service{cfg: cfg, client: newClient(cfg.Upstreams, cfg.Transport), stats: newStatistics(),
		flights: map[key]*flight{}, byID: map[string]*flight{}, bids: map[key]*bid{}, writeWithin: writeWithin, quietFor: quietFor}
	s.elector = newElector(cfg.Pool, uuid.NewString(), cfg.Logger, func(k key) { cfg.Cache.Drop(s.life, cacheKey(k)) })
	s.life, s.endLife = context.WithCancelCause(context.Background())
	return s, nil
}

// Run works until ctx ends. Then answers that are under way have the grace to end; what has not ended by then
// is left to other replicas. It returns when nothing is left running.
func (s *Service) Run(ctx context.Context) error {
	elections, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var parts sync.WaitGroup
	parts.Go(func() { s.elector.run(elections) })
	parts.Go(func() { s.elector.heart(elections) })

	<-ctx.Done()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.elector.noLinger()
	ended := make(chan struct{})
	go func() {
		s.underWay.Wait()
		close(ended)
	}()
	t := time.NewTimer(s.cfg.Grace)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	s.endLife(errStopping)
	<-ended
	stop()
	parts.Wait()
	s.client.close()
	return nil
}

// ttl is how long an answer of a class is kept.
func (s *Service) ttl(class string) time.Duration {
	switch class {
	case ClassEvaluation:
		return s.cfg.TTLs.Evaluation
	case ClassSystem:
		return s.cfg.TTLs.System
	}
	return s.cfg.TTLs.Prompt
}

var errOverloaded = &Refusal{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "overloaded", Message: "too many answers are being generated",
	Header: http.Header{"Retry-After": {"1"}}}

// take returns the flight that a request may join, or starts one, or says why not.
func (s *Service) take(req *request, joinable bool) (f *flight, joined bool, why *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[req.key]; joinable && f != nil && !f.failed() { // a failure is for those who waited for it
		return f, true, nil
	}
	if s.closed || len(s.byID) >= maxFlights {
		return nil, false, errOverloaded
	}
	release, why := s.reserve(req)
	if why != nil {
		return nil, false, why
	}
	var c *candidacy
	if b := s.bids[req.key]; joinable && b != nil {
		c = b.candidacy
		delete(s.bids, req.key)
	}
	f = newFlight(s.life, req, joinable, s.cfg.Mode, c)
	f.ending = release
	s.byID[f.first] = f
	if joinable {
		s.flights[req.key] = f
	}
	s.underWay.Go(func() {
		defer s.drop(f)
		defer release()
		s.fly(f)
	})
	return f, false, nil
}

// Joined tells that a client of this replica has subscribed to a channel of Namespace: whoever generates the answer,
// here or elsewhere, keeps none of it back from then on.
func (s *Service) Joined(channel string) {
	id := strings.TrimPrefix(channel, Namespace+":")
	if len(id) != len(idPrefix)+2*len(uuid.UUID{}) || !strings.HasPrefix(id, idPrefix) {
		return // no answer's
	}
	s.mu.Lock()
	f := s.byID[id]
	s.mu.Unlock()
	if f == nil {
		s.elector.notice(id)
		return
	}
	s.elector.follow(map[key]bool{f.key: true})
}

// drop forgets a flight that has ended.
func (s *Service) drop(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, f.first)
	if s.flights[f.req.key] == f {
		delete(s.flights, f.req.key)
	}
}

// close lets nobody join a flight any more.
func (s *Service) close(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[f.req.key] == f {
		delete(s.flights, f.req.key)
	}
}
