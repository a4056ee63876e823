package resources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/handlers/problem"
)

// forTheKey is a Cache-Control that nobody changes.
var forTheKey = []string{"private, no-cache"}

// requestTimeout bounds what is not a stream.
const requestTimeout = 10 * time.Second

// Config says what the resources work with.
type Config struct {
	Pool   *pgxpool.Pool
	Cache  *cache.Cache
	Queue  *db.Queue    // of what is done in the background
	Models http.Handler // POST /v1/chat/completions, with the caller in the context; nil where there is no model
	Logger *slog.Logger
	Chunk  func() // called after each chunk of an export or an import: memory is looked at there; nil for nothing
}

// Service serves the resources. It is safe for concurrent use.
type Service struct {
	cfg    Config
	pool   *pgxpool.Pool
	logger *slog.Logger
	heard  *invalidator
}

// New makes a Service; Run starts it.
func New(cfg Config) (*Service, error) {
	if cfg.Pool == nil || cfg.Cache == nil || cfg.Queue == nil || cfg.Logger == nil {
		return nil, errors.New("resources: Pool, Cache, Queue and Logger are required")
	}
	s := &Service{cfg: cfg, pool: cfg.Pool, logger: cfg.Logger, heard: newInvalidator(cfg.Cache, cfg.Logger)}
	if err := db.AddWorker(cfg.Queue, evaluationQueue, workersAtOnce, &evaluator{s: s}); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	cfg.Queue.Count(evaluationQueue)
	return s, nil
}

// Run forgets what it hears of, until ctx ends.
func (s *Service) Run(ctx context.Context) error { return s.heard.run(ctx) }

// Mount adds the routes, each behind what guard says. They stand behind access.Gate.Authenticate.
func (s *Service) Mount(r chi.Router, guard func(Route, http.HandlerFunc) http.Handler) {
	for _, route := range s.Routes() {
		r.Method(route.Method, route.Path, guard(route, s.serve(route)))
	}
}

// Handler serves the route of an id at whatever path, to whoever the request's context says is the caller.
func (s *Service) Handler(id string) http.HandlerFunc {
	for _, route := range s.Routes() {
		if route.ID == id {
			return s.serve(route)
		}
	}
	panic("resources: no route has the id " + id) // at the start
}

// call is one request of a caller whose key is good.
type call struct {
	s      *Service
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context
	route  *Route
	caller llm.Caller
	tenant string
	raw    []byte // the body, once it was read
}

// serve makes a handler of a route: it finds the caller, bounds the time, and answers errors.
func (s *Service) serve(route Route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, ok := llm.CallerFrom(r.Context())
		if !ok { // the route is not behind Authenticate
			problem.New(http.StatusUnauthorized, "missing_api_key", "no API key was sent").Write(w)
			return
		}
		ctx := r.Context()
		if !route.Stream && !route.cached {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, requestTimeout)
			defer cancel()
		}
		c := &call{s: s, w: w, r: r, ctx: ctx, route: &route, caller: caller, tenant: caller.Tenant}
		// What a key may see is for whoever has the key, and nobody's shared cache.
		w.Header()["Cache-Control"] = forTheKey
		w.Header().Add("Vary", "Authorization, Forgewire-Key")
		if err := route.handle(c); err != nil {
			c.fail(err)
		}
	}
}
