package handlers

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"

	"forgewire/realtime"
)

// Config says what the handlers serve.
type Config struct {
	Node                *realtime.Node
	Logger              *slog.Logger
	APIKey              string // "" disables the server API
	MaxPublicationBytes int
	Replica             string       // this replica's name, for /api/info
	Version             string       // of the binary
	Home                http.Handler // what "/" shows; nil for nothing
}

// server holds what the handlers share. It is fixed once Routes has made it.
type server struct {
	node    *realtime.Node
	logger  *slog.Logger
	keyHash [sha256.Size]byte
	hasKey  bool
	maxBody int64
	replica string
	version string
}

// Routes returns the handler of everything that a replica serves.
func Routes(cfg Config) (http.Handler, error) {
	if cfg.Node == nil || cfg.Logger == nil {
		return nil, errors.New("handlers: Node and Logger are required")
	}
	s := &server{
		node:    cfg.Node,
		logger:  cfg.Logger,
		keyHash: sha256.Sum256([]byte(cfg.APIKey)),
		hasKey:  cfg.APIKey != "",
		maxBody: int64(max(maxBatchBytes, cfg.MaxPublicationBytes+maxEnvelopeBytes)),
		replica: cfg.Replica,
		version: cfg.Version,
	}
	r := chi.NewRouter()
	r.Use(s.requestID, s.recover, s.use)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, http.StatusNotFound, notFound) })
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, http.StatusMethodNotAllowed, wrongMethod) })

	r.Get("/livez", s.live)
	r.Get("/readyz", s.ready)
	r.Get("/connection/websocket", s.node.ServeWebSocket)
	r.Get("/connection/sse", s.node.ServeSSE)
	r.Post("/connection/sse", s.node.ServeSSE)
	r.Post("/connection/http_stream", s.node.ServeHTTPStream)
	r.Post("/emulation", s.node.ServeEmulation)
	r.Get("/v1/channels/{channel}/events", s.events)
	for _, path := range []string{"/connection/sse", "/connection/http_stream", "/emulation", "/v1/channels/{channel}/events"} {
		r.Options(path, s.node.ServePreflight)
	}

	r.Route("/api", func(r chi.Router) {
		r.Use(s.authorize)
		r.Post("/publish", call(s, s.publish))
		r.Post("/broadcast", call(s, s.broadcast))
		r.Post("/batch", s.batch)
		r.Post("/history", call(s, s.history))
		r.Post("/channels", call(s, s.channels))
		r.Post("/info", call(s, s.info))
	})
	if cfg.Home != nil {
		r.Handle("/*", cfg.Home)
	}
	return r, nil
}
