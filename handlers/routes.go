package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/handlers/access"
	"forgewire/handlers/admin"
	"forgewire/handlers/middleware"
	"forgewire/handlers/resources"
	"forgewire/infra/memory"
	"forgewire/infra/monitor"
	"forgewire/infra/tracing"
	"forgewire/realtime"
)

// Config says what the handlers serve.
type Config struct {
	Node                *realtime.Node
	Gate                *access.Gate
	LLM                 *llm.Service // nil where no upstream is configured
	Cache               *cache.Cache // nil for none, for the figures
	Admin               *admin.Admin // nil for no dashboard
	Resources           *resources.Service
	MaxIPRequests       int               // that one address may send to the resources a minute; 0 for no limit
	Rates               *middleware.Rates // counts them over all replicas; nil: each counts for itself
	Logger              *slog.Logger
	APIKey              string // "" disables the server API
	MaxPublicationBytes int
	Monitor             *monitor.Monitor
	Pools               map[string]*pgxpool.Pool // by name, for the figures
	Memory              *memory.Governor         // nil for none
	Tracing             *tracing.Tracing         // nil for none
	Version             string                   // of the binary
	MetricsElsewhere    bool                     // Metrics is served on a port of its own
	Home                http.Handler             // what "/" shows; nil for nothing
	ClientIPHeader      string                   // the header in which the platform's proxy says who connects; "" for none
	TrustedProxies      []string                 // networks of proxies whose header counts; none: private ones
}

// server holds what the handlers share. It is fixed once Routes has made it.
type server struct {
	node    *realtime.Node
	logger  *slog.Logger
	keyHash [sha256.Size]byte
	hasKey  bool
	maxBody int64
	monitor *monitor.Monitor
	pools   map[string]*pgxpool.Pool
	memory  *memory.Governor
	cache   *cache.Cache
	llm     *llm.Service
	version string
	methods []method // of the server API, but for batch
	// document is the OpenAPI document.
	document object
}

// HandshakePath is where WebSockets begin.
const HandshakePath = "/connection/websocket"

// Routes returns the handler of everything that a replica serves.
func Routes(cfg Config) (http.Handler, error) {
	if cfg.Node == nil || cfg.Gate == nil || cfg.Resources == nil || cfg.Logger == nil || cfg.Monitor == nil {
		return nil, errors.New("handlers: Node, Gate, Resources, Logger and Monitor are required")
	}
	s := &server{
		node:    cfg.Node,
		logger:  cfg.Logger,
		keyHash: sha256.Sum256([]byte(cfg.APIKey)),
		hasKey:  cfg.APIKey != "",
		maxBody: int64(max(maxBatchBytes, cfg.MaxPublicationBytes+maxEnvelopeBytes)),
		monitor: cfg.Monitor,
		pools:   cfg.Pools,
		memory:  cfg.Memory,
		version: cfg.Version,
		cache:   cfg.Cache,
		llm:     cfg.LLM,
	}
	s.node.OnGather(s.answerGather)
	s.methods = methods(s)
	s.document = document(cfg.Version, s.methods, cfg.Resources.Routes())
	r := chi.NewRouter()
	r.Use(s.observe, cfg.Tracing.Middleware, s.requestID, s.recover)
	if cfg.ClientIPHeader != "" {
		r.Use(clientIP(cfg.ClientIPHeader, cfg.TrustedProxies))
	}
	r.Use(middleware.Preflight("/v1/", s.node.AllowsOrigin))
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, http.StatusNotFound, notFound) })
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, http.StatusMethodNotAllowed, wrongMethod) })

	r.Get("/livez", s.live)
	r.Get("/readyz", s.ready)
	r.Get(HandshakePath, s.node.ServeWebSocket)
	r.Get("/connection/sse", s.observeStream(s.node.ServeSSE))
	r.Post("/connection/sse", s.observeStream(s.node.ServeSSE))
	r.Post("/connection/http_stream", s.observeStream(s.node.ServeHTTPStream))
	r.Post("/emulation", s.node.ServeEmulation)
	r.Get("/v1/channels/{channel}/events", s.observeStream(s.events))
	for _, path := range []string{"/connection/sse", "/connection/http_stream", "/emulation", "/v1/channels/{channel}/events"} {
		r.Options(path, s.node.ServePreflight)
	}
	if !cfg.MetricsElsewhere {
		r.With(s.authorize).Method(http.MethodGet, "/metrics", Metrics(cfg))
	}

	r.With(s.authorize, s.use).Get("/v1/stats", s.v1Stats)
	s.v1(r, cfg)
	// The document has no secrets, and tools fetch it without headers.
	r.Get("/api/openapi.json", s.openAPI)
	r.Route("/api", s.apiRoutes)
	s.pages(r, cfg)
	return r, nil
}

// pages are what people look at.
func (s *server) pages(r chi.Router, cfg Config) {
	if cfg.Admin != nil {
		cfg.Admin.OnFigures(func(ctx context.Context) (any, error) { return s.gather(ctx) })
		r.Mount(admin.Path, cfg.Admin.Routes())
	}
	if cfg.Home != nil {
		r.Handle("/*", cfg.Home)
	}
}

// apiRoutes are the server API.
func (s *server) apiRoutes(r chi.Router) {
	r.Use(s.authorize, s.use, s.weigh)
	for _, m := range s.methods {
		if m.name == "history" {
			r.With(s.shed).Post("/"+m.name, s.handle(m))
			continue
		}
		r.Post("/"+m.name, s.handle(m))
	}
	r.Post("/batch", s.batch)
	r.Get("/stats", s.stats)
}

// v1 adds the routes that the keys of `forgewire key` open.
func (s *server) v1(r chi.Router, cfg Config) {
	r.Group(func(r chi.Router) {
		r.Use(middleware.Security, middleware.CORS(s.node.AllowsOrigin), s.authenticate(cfg.Gate))
		if cfg.LLM != nil {
			s.models(r, cfg.LLM, cfg.Gate)
		}
	})

	// A model's requests have the limits of their key; these have those of their address.
	r.Group(func(r chi.Router) {
		r.Use(middleware.Security, middleware.CORS(s.node.AllowsOrigin), middleware.Rate(cfg.MaxIPRequests, cfg.Rates), s.authenticate(cfg.Gate), middleware.Compress())
		r.Get("/v1/runs", cfg.Gate.ListRuns)
		r.With(s.shed).Get("/v1/runs/export", s.observeStream(cfg.Gate.ExportRuns))
		r.Get("/v1/runs/{id}", cfg.Gate.GetRun)
		r.Get("/v1/usage", cfg.Gate.Usage)
		cfg.Resources.Mount(r, s.guard)
	})
}
