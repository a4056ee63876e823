package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"forgewire/cache/llm"
	"forgewire/infra/monitor"
)

// Topic is what changes of keys are announced under: see Gate.Hear.
const Topic = "keys"

// Config says how a Gate works. All of it is fixed once New has it.
type Config struct {
	Pool      *pgxpool.Pool
	Logger    *slog.Logger
	ServerKey string        // the server's own key, of the tenant DefaultTenant, without limits; "" is none
	Retention time.Duration // how long runs are kept
	// BodyRetention is how long what was asked and answered is kept; 0 keeps none.
	BodyRetention time.Duration
	Flush         time.Duration // how long Run may take, once its context has ended, to bring what is left to the database
	Chunk         func()        // called after each chunk of an export: memory is looked at there; nil for nothing
}

// Gate is who may use /v1, and the record of what was used. It is safe for concurrent use.
type Gate struct {
	logger   *slog.Logger
	pool     *pgxpool.Pool
	flush    time.Duration
	chunk    func()
	verifier *verifier
	ledger   *ledger
	journal  *journal
}

// New makes a Gate; Run starts it.
func New(cfg Config) (*Gate, error) {
	if cfg.Pool == nil || cfg.Logger == nil || cfg.Retention <= 0 || cfg.BodyRetention < 0 || cfg.Flush <= 0 {
		return nil, errors.New("access: Pool, Logger, Retention and Flush are required")
	}
	l := newLedger(cfg.Pool, cfg.Logger)
	return &Gate{
		logger: cfg.Logger, pool: cfg.Pool, flush: cfg.Flush, chunk: cfg.Chunk, ledger: l,
		verifier: newVerifier(cfg.Pool, cfg.Logger, cfg.ServerKey, l.learned),
		journal:  newJournal(cfg.Pool, cfg.Logger, cfg.Retention, cfg.BodyRetention),
	}, nil
}

// Run settles and writes until ctx ends, and then what is left. End ctx when no
// request is under way any more.
func (g *Gate) Run(ctx context.Context) error {
	// What is under way when ctx ends is not cut, or nobody would know whether it was done.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(g.flush, cancel) })
	var group errgroup.Group
	group.Go(func() error { return g.ledger.run(ctx, work) })
	group.Go(func() error { return g.journal.run(ctx, work) })
	return group.Wait()
}

// Hear takes what was announced under Topic: the id of a key that changed, or nothing where some announcement may
// have been missed.
func (g *Gate) Hear(data []byte) { g.verifier.hear(string(data)) }

// Record takes the run of each request when it has ended: it is an llm.Record. It never blocks.
func (g *Gate) Record(r llm.Run) {
	g.ledger.record(&r)
	g.journal.record(&r)
}

// Reserve sets aside what an answer may take of its key: it is an llm.Reserve. It never blocks.
func (g *Gate) Reserve(c llm.Caller, tokens, costMicros int64) (release func(), why *llm.Refusal) {
	return g.ledger.reserve(c.KeyID, usage{tokens, costMicros})
}

// Authenticate lets requests through that have a good key, with their caller in the context.
func (g *Gate) Authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := bearer(r)
		if !ok {
			g.refuse(w, r, missingKey)
			return
		}
		caller, why := g.verifier.verify(r.Context(), key)
		if why != nil {
			g.refuse(w, r, why)
			return
		}
		monitor.SetTenant(r.Context(), caller.Tenant)
		next.ServeHTTP(w, r.WithContext(llm.WithCaller(r.Context(), caller)))
	})
}

// bearer returns the key of a request. One that sends two headers is refused: whoever is in front of us may have
// looked at the other.
func bearer(r *http.Request) (string, bool) {
	// Where Authorization holds the caller's own key for an upstream, ours comes beside it.
	if values := r.Header.Values("Forgewire-Key"); len(values) > 0 {
		return values[0], len(values) == 1 && values[0] != ""
	}
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, key, ok := strings.Cut(values[0], " ")
	if key = strings.TrimSpace(key); !ok || !strings.EqualFold(scheme, "Bearer") || key == "" {
		return "", false
	}
	return key, true
}

// Limit lets requests through whose key has something left of its minute and its month, and takes one request of
// it. It stands behind Authenticate, on the routes that ask a model, and before anything of the body is read.
func (g *Gate) Limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := llm.CallerFrom(r.Context())
		if !ok {
			g.refuse(w, r, missingKey)
			return
		}
		left, why := g.ledger.admit(r.Context(), caller.KeyID)
		if left != nil {
			left.header(w.Header())
		}
		if why != nil {
			g.refuse(w, r, why)
			return
		}
		next.ServeHTTP(w, r)
	})
}
