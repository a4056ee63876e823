package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/handlers"
	"forgewire/infra/config"
	"forgewire/infra/logging"
	"forgewire/infra/memory"
	"forgewire/infra/monitor"
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

// appConfig is what one replica is made of.
type appConfig struct {
	*config.Config
	Logger  *slog.Logger
	Replica string       // its name, in logs and in /api/info
	Demo    http.Handler // the page at "/"; nil for none
}

// app is one replica: newApp wires it and Run owns it.
type app struct {
	cfg        appConfig
	closePools func()
	memory     *memory.Governor
	cleanup    *db.Cleanup
	node       *realtime.Node
	server     *http.Server
	// metrics serves /metrics without a key, on a port of its own; nil without one.
	metrics *http.Server
}

// newApp makes a replica. It connects to nothing: the database may be away.
func newApp(cfg appConfig) (*app, error) {
	logger := cfg.Logger.With(logging.Replica, cfg.Replica)
	pool, publishPool, err := newPools(cfg, logger)
	if err != nil {
		return nil, err
	}
	closePools := func() { pool.Close(); publishPool.Close() }
	governor, err := memory.New(memory.Config{Logger: logger})
	if err != nil {
		closePools()
		return nil, err
	}
	node, err := newNode(cfg, logger, pool, publishPool, governor)
	if err != nil {
		closePools()
		return nil, err
	}
	web := handlers.Config{
		Monitor: monitor.New(), Pools: map[string]*pgxpool.Pool{"requests": pool, "publish": publishPool},
		Node: node, Logger: logger, APIKey: cfg.APIKey.Reveal(), MaxPublicationBytes: cfg.MaxPublicationBytes,
		Memory: governor, Version: version, MetricsElsewhere: cfg.MetricsPort != 0, Home: cfg.Demo, ClientIPHeader: cfg.ClientIPHeader,
	}
	routes, err := handlers.Routes(web)
	if err != nil {
		closePools()
		return nil, err
	}
	cleanup := db.NewCleanup(pool, logger)
	cleanup.Add("hidden history", realtime.CleanUp)
	a := &app{cfg: cfg, closePools: closePools, memory: governor, cleanup: cleanup, node: node, server: newServer(routes, logger)}
	if cfg.MetricsPort != 0 {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", handlers.Metrics(web))
		a.metrics = newServer(mux, logger)
	}
	return a, nil
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

// newNode makes the realtime half.
func newNode(cfg appConfig, logger *slog.Logger, requests, publish *pgxpool.Pool, governor *memory.Governor) (*realtime.Node, error) {
	namespaces, err := realtime.ParseNamespaces(cfg.Namespaces)
	if err != nil {
		return nil, config.Mistakes{{Variable: "FORGEWIRE_NAMESPACES", Problem: err.Error(),
			Example: `{"namespaces":[{"name":"chat","allow_publish_for_subscriber":true}]}`}}
	}
	var publicKey crypto.PublicKey
	if cfg.TokenPublicKey != "" {
		if publicKey, err = realtime.ParsePublicKey(cfg.TokenPublicKey); err != nil {
			return nil, config.Mistakes{{Variable: "FORGEWIRE_TOKEN_PUBLIC_KEY", Problem: err.Error(), Example: `"$(cat public.pem)"`}}
		}
	}
	node, err := realtime.New(realtime.Config{
		Pool:        requests,
		PublishPool: publish,
		ListenURL:   cfg.ListenDatabaseURL.Reveal(),
		Logger:      logger,
		Name:        cfg.Replica,
		Version:     version,
		Tokens: realtime.TokenConfig{
			Secret: cfg.TokenSecret.Reveal(), PublicKey: publicKey, JWKSURL: cfg.TokenJWKSURL,
			Audience: cfg.TokenAudience, Issuer: cfg.TokenIssuer,
		},
		AllowAnonymous:      cfg.AllowAnonymous,
		AllowedOrigins:      cfg.AllowedOrigins,
		Namespaces:          namespaces,
		MaxConnections:      cfg.MaxConnections,
		MaxUserConnections:  cfg.MaxUserConnections,
		MaxIPConnections:    cfg.MaxIPConnections,
		MaxIPHandshakes:     cfg.MaxIPHandshakes,
		CommandRate:         cfg.CommandRate,
		MaxPublicationBytes: cfg.MaxPublicationBytes,
		RetentionAge:        cfg.RetentionAge,
		RetentionBytes:      cfg.RetentionBytes,
		Shedding:            governor.Shedding,
		ShutdownTimeout:     cfg.ShutdownTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("make the realtime node: %w", err)
	}
	governor.OnPressure(node.ShrinkBuffers)
	return node, nil
}

// publishConns is for the publisher and its like, each of which uses one connection at a time.
const publishConns = 4

// newPools makes the pool of the requests, and the publisher's own.
func newPools(cfg appConfig, logger *slog.Logger) (requests, publish *pgxpool.Pool, err error) {
	c := db.PoolConfig{URL: cfg.DatabaseURL.Reveal(), MinConns: int32(cfg.DBPoolMin), MaxConns: int32(cfg.DBPoolMax), Logger: logger}
	if requests, err = db.NewPool(context.Background(), c); err != nil {
		return nil, nil, err
	}
	c.MinConns, c.MaxConns = 1, publishConns
	if publish, err = db.NewPool(context.Background(), c); err != nil {
		requests.Close()
		return nil, nil, err
	}
	return requests, publish, nil
}

// Run serves on ln until ctx ends, and then stops in order: no new connection; clients are told to reconnect
// elsewhere while requests that are under way end; the database last. It takes the configured grace at most.
// Metrics is the listener for those, or nil.
func (a *app) Run(ctx context.Context, ln, metrics net.Listener) error {
	defer a.closePools()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := a.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
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
	g.Go(func() error { return a.memory.Run(ctx) })
	g.Go(func() error { return a.cleanup.Run(ctx) })
	g.Go(func() error { return a.node.Run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.ShutdownTimeout)
		defer cancel()
		if err := a.server.Shutdown(grace); err != nil {
			_ = a.server.Close() // what did not end in its time is cut
		}
		return nil
	})
	return g.Wait()
}
