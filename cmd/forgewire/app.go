package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/admin"
	"forgewire/handlers/middleware"
	"forgewire/handlers/resources"
	"forgewire/infra/config"
	"forgewire/infra/logging"
	"forgewire/realtime"
)

// Bounds on a request. A WebSocket leaves them behind when it is accepted.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
)

// flushShare is which part of the grace is left, when requests have ended, to record them.
const flushShare = 5

// appConfig is what one replica is made of.
type appConfig struct {
	*config.Config
	Logger  *slog.Logger
	Replica string       // its name, in logs and in /api/info
	Demo    http.Handler // the page at "/"; nil for none
	Hosts   *hosts       // that it answers to; nil for all
}

// app is one replica: newApp wires it and Run owns it.
type app struct {
	cfg       appConfig
	base      *base
	node      *realtime.Node
	cache     *cache.Cache
	gate      *access.Gate
	models    *llm.Service // nil where no upstream is configured
	resources *resources.Service
	rates     *middleware.Rates // nil where each replica counts for itself
	admin     *admin.Admin      // nil where no password is configured
	server    *http.Server
	// metrics serves /metrics without a key, on a port of its own; nil without one.
	metrics *http.Server
}

// newApp makes a replica. It connects to nothing: the database may be away.
func newApp(cfg appConfig) (*app, error) {
	logger := cfg.Logger.With(logging.Replica, cfg.Replica)
	rc, err := realtimeConfig(cfg)
	if err != nil {
		return nil, err
	}
	b, err := newBase(cfg, logger)
	if err != nil {
		return nil, err
	}
	if rc.Tokens.OperatorKey, err = operatorKey(cfg); err != nil {
		b.close()
		return nil, err
	}
	rc.Pool, rc.PublishPool, rc.Logs, rc.Logger, rc.Shedding = b.requests, b.publish, b.logs, logger, b.memory.Shedding
	node, err := realtime.New(rc)
	if err != nil {
		b.close()
		return nil, fmt.Errorf("make the realtime node: %w", err)
	}
	b.memory.OnPressure(node.ShrinkBuffers)
	a := &app{cfg: cfg, base: b, node: node}
	web, err := a.web(logger, rc.Tokens)
	if err != nil {
		b.close()
		return nil, err
	}
	routes, err := handlers.Routes(web)
	if err != nil {
		b.close()
		return nil, err
	}
	a.server = newServer(cfg.Hosts.guard(routes), logger)
	a.server.ConnState = (&door{most: int64(cfg.MaxConnections) + spareConnections, sockets: node.Sockets, logger: logger}).state
	if cfg.MetricsPort != 0 {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", handlers.Metrics(web))
		a.metrics = newServer(mux, logger)
	}
	return a, nil
}

// realtimeConfig reads what config carries as it came. What is wrong with it is reported at once, too.
func realtimeConfig(cfg appConfig) (realtime.Config, error) {
	var mistakes config.Mistakes
	wrong := func(variable string, err error, example string) {
		if err != nil {
			mistakes = append(mistakes, config.Mistake{Variable: variable, Problem: err.Error(), Example: example})
		}
	}
	namespaces, err := realtime.ParseNamespaces(cfg.Namespaces)
	wrong("FORGEWIRE_NAMESPACES", err, `{"namespaces":[{"name":"chat","allow_publish_for_subscriber":true}]}`)
	if err == nil {
		for _, ours := range []string{llm.Namespace, resources.PromptNamespace, resources.DatasetNamespace, resources.EvaluationNamespace} {
			wrong("FORGEWIRE_NAMESPACES", namespaces.Reserve(ours), `{"namespaces":[{"name":"chat"}]}`)
		}
		wrong("FORGEWIRE_NAMESPACES", namespaces.Seclude(llm.AliasNamespace), `{"namespaces":[{"name":"chat"}]}`)
	}
	hooks, err := realtime.ParseHooks(cfg.Hooks.Reveal())
	wrong("FORGEWIRE_HOOKS", err, `{"connect":{"endpoint":"http://localhost:3000/connect","http_headers":["Cookie"]}}`)
	var publicKey crypto.PublicKey
	if cfg.TokenPublicKey != "" {
		publicKey, err = realtime.ParsePublicKey(cfg.TokenPublicKey)
		wrong("FORGEWIRE_TOKEN_PUBLIC_KEY", err, `"$(cat public.pem)"`)
	}
	if len(mistakes) > 0 {
		return realtime.Config{}, mistakes
	}
	return realtime.Config{
		ListenURL: cfg.ListenDatabaseURL.Reveal(),
		Name:      cfg.Replica,
		Version:   version,
		Tokens: realtime.TokenConfig{
			Secret: cfg.TokenSecret.Reveal(), PublicKey: publicKey, KeySets: cfg.KeySets(),
			Audience: cfg.TokenAudience, Issuer: cfg.TokenIssuer,
		},
		AllowAnonymous:      cfg.AllowAnonymous,
		AllowedOrigins:      cfg.AllowedOrigins,
		Namespaces:          namespaces,
		Hooks:               hooks,
		WebhookURL:          cfg.WebhookURL.Reveal(),
		WebhookSecret:       cfg.WebhookSecret.Reveal(),
		MaxConnections:      cfg.MaxConnections,
		MaxUserConnections:  cfg.MaxUserConnections,
		MaxIPConnections:    cfg.MaxIPConnections,
		MaxIPHandshakes:     cfg.MaxIPHandshakes,
		CommandRate:         cfg.CommandRate,
		MaxPublicationBytes: cfg.MaxPublicationBytes,
		RetentionAge:        cfg.RetentionAge,
		RetentionBytes:      cfg.RetentionBytes,
		MaxConnectionAge:    cfg.MaxConnectionAge,
		IdleRelease:         cfg.IdleRelease,
		ShutdownTimeout:     cfg.ShutdownTimeout,
	}, nil
}

func newCache(cfg appConfig, node *realtime.Node, logger *slog.Logger) (*cache.Cache, error) {
	values, err := cache.New(cache.Config{URL: cfg.ValkeyURL.Reveal(), LocalBytes: cfg.CacheLocalBytes,
		MaxConnections: cfg.CacheMaxConnections, Bus: node, Log: logger})
	if errors.Is(err, cache.ErrURL) {
		return nil, config.Mistakes{{Variable: "VALKEY_URL", Problem: err.Error(), Example: "redis://localhost:6379/0"}}
	}
	if err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	node.Hear(cache.Topic, values.Announced)
	return values, nil
}

// web makes the HTTP side: the cache, who may use /v1, the models behind it; and says what is served.
func (a *app) web(logger *slog.Logger, tokens realtime.TokenConfig) (web handlers.Config, err error) {
	cfg, b, node := a.cfg, a.base, a.node
	if a.cache, err = newCache(cfg, node, logger); err != nil {
		return web, err
	}
	b.memory.OnPressure(a.cache.Shrink)
	chunk := func() { b.memory.Check() }
	a.gate, err = access.New(access.Config{Pool: b.requests, Logger: logger, ServerKey: cfg.APIKey.Reveal(),
		Retention: cfg.RunRetention, BodyRetention: cfg.BodyRetention, Flush: cfg.ShutdownTimeout / flushShare, Chunk: chunk})
	if err != nil {
		return web, fmt.Errorf("make the gate of /v1: %w", err)
	}
	b.cleanup.Add("old runs", a.gate.CleanUp)
	node.Hear(access.Topic, a.gate.Hear)
	if a.models, err = newModels(cfg, b, node, a.cache, a.gate, logger); err != nil {
		return web, err
	}
	var ask http.Handler // what evaluations ask counts against the limits of their key
	if a.models != nil {
		ask = a.gate.Limit(a.models.Handler("chat/completions"))
	}
	a.resources, err = resources.New(resources.Config{Pool: b.requests, Cache: a.cache, Queue: node.Queue(), Models: ask, Logger: logger, Chunk: chunk})
	if err != nil {
		return web, fmt.Errorf("make the resources of /v1: %w", err)
	}
	node.Overhear(resources.Channels, a.resources.Overhear)
	if cfg.MaxIPRequests > 0 && a.cache.Shared() {
		a.rates = middleware.NewRates(a.cache, logger)
	}
	if a.admin, err = newAdmin(cfg, b, node, a.gate, a.resources, tokens, logger); err != nil {
		return web, err
	}
	return handlers.Config{
		Monitor: b.monitor, Pools: b.pools(), Memory: b.memory, Tracing: b.tracing,
		Cache: a.cache, Admin: a.admin, Node: node, Gate: a.gate, LLM: a.models, Resources: a.resources, MaxIPRequests: cfg.MaxIPRequests, Rates: a.rates, Logger: logger, APIKey: cfg.APIKey.Reveal(), MaxPublicationBytes: cfg.MaxPublicationBytes,
		Version: version, MetricsElsewhere: cfg.MetricsPort != 0, Home: cfg.Demo, ClientIPHeader: cfg.ClientIPHeader, TrustedProxies: cfg.TrustedProxies,
	}, nil
}

func newServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// endRequests waits for requests that are under way, and cuts what did not end in its time.
func (a *app) endRequests(ctx context.Context) {
	grace, cancel := context.WithTimeout(ctx, a.cfg.ShutdownTimeout-a.cfg.ShutdownTimeout/flushShare)
	defer cancel()
	if err := a.server.Shutdown(grace); err != nil {
		_ = a.server.Close() // which has nothing to tell
	}
}

// Run serves on ln until ctx ends, and then stops in order: no new connection; clients are told to reconnect
// elsewhere while requests that are under way end; the database last. It takes the configured grace at most.
// Metrics is the listener for those, or nil.
func (a *app) Run(ctx context.Context, ln, metrics net.Listener) error {
	defer a.base.close()
	g, ctx := errgroup.WithContext(ctx)
	// The gate is the last to stop: requests that end on the way are still to be recorded.
	served, endGate := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return a.gate.Run(served) })
	g.Go(func() error {
		if err := a.server.Serve(newHandshakes(ln, a.server)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	if a.metrics != nil && metrics != nil {
		g.Go(func() error {
			if err := a.metrics.Serve(metrics); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve metrics: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			_ = a.metrics.Close() // a scrape that is cut comes again
			return nil
		})
	}
	a.base.start(ctx, g)
	// What is under way, requests and answers that others read along, still publishes, follows and uses the cache.
	used, unused := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return a.node.Run(used) })
	g.Go(func() error { return a.cache.Run(used) })
	if a.admin != nil {
		g.Go(func() error { return a.admin.Run(ctx) })
	}
	g.Go(func() error { return a.resources.Run(ctx) })
	if a.rates != nil {
		g.Go(func() error { return a.rates.Run(ctx) })
	}
	var underWay sync.WaitGroup
	if a.models != nil {
		underWay.Add(1)
		g.Go(func() error { defer underWay.Done(); return a.models.Run(ctx) })
	}
	underWay.Go(func() {
		<-ctx.Done()
		a.node.Drain()
	})
	underWay.Go(func() {
		<-ctx.Done()
		a.endRequests(context.WithoutCancel(ctx))
	})
	g.Go(func() error {
		defer endGate()
		defer unused()
		underWay.Wait()
		return nil
	})
	err := g.Wait()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceGrace)
	defer cancel()
	if lost := a.base.tracing.Stop(stop); lost != nil {
		a.cfg.Logger.Warn("the last traces are lost", "error", lost)
	}
	return err
}
