package db

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Defaults of the pool. The ceiling is the user guide's (20 and 15 more).
const (
	DefaultMaxConns       = 35
	DefaultAcquireTimeout = 10 * time.Second
	waitingPerConn        = 10 // a queue that is longer than this many times the pool is not worth to wait in

	maxConnLifetime = time.Hour
	jitterShare     = 10 // of the lifetime, so that a fleet does not reconnect in step
	maxConnIdleTime = 10 * time.Minute
	connectTimeout  = 5 * time.Second
	pingTimeout     = 2 * time.Second // of a connection that was idle for more than pingAfter
	pingAfter       = time.Second     // to ping before each use costs a third of the reads
)

// PoolConfig says how to reach the database.
type PoolConfig struct {
	URL      string // postgres://… or key=value
	MinConns int32  // kept open once the pool is in use (MaxConns at most); a replica that nobody uses opens none
	MaxConns int32  // 0: DefaultMaxConns

	// Whoever waits longer for a connection gets an error that Is ErrBusy. 0: DefaultAcquireTimeout.
	AcquireTimeout time.Duration
	// So many may wait; one more gets ErrBusy at once. 0: ten times MaxConns.
	MaxWaiting int

	// How long a connection is used; up to a tenth more, at random. 0: an hour.
	Lifetime time.Duration

	Logger *slog.Logger    // told of a pooler that is found; nil for none
	Tracer pgx.QueryTracer // sees every query beside the pool's own figures; nil for none
}

// errBadURL replaces pgx's own error, which quotes the URL and with it the password.
var errBadURL = errors.New("the database URL is not valid: expected postgres://user:password@host:5432/database")

// NewPool makes the pool, and connects when it is first used: the server may be away. Its waiting is bounded,
// in time and number, whichever of its methods is called; PoolStats tells how it fares. It is safe for
// concurrent use.
func NewPool(ctx context.Context, cfg PoolConfig) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errBadURL
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	cfg.MinConns = min(cfg.MinConns, cfg.MaxConns)
	if cfg.AcquireTimeout <= 0 {
		cfg.AcquireTimeout = DefaultAcquireTimeout
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = waitingPerConn * int(cfg.MaxConns)
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = maxConnLifetime
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &gate{timeout: cfg.AcquireTimeout, most: int64(cfg.MaxConns) + int64(cfg.MaxWaiting), base: cfg.MinConns}
	p := &poolerCheck{logger: cfg.Logger, chosen: strings.Contains(cfg.URL, "default_query_exec_mode")}
	pc.MinConns, pc.MaxConns = cfg.MinConns, cfg.MaxConns
	pc.MaxConnLifetime, pc.MaxConnLifetimeJitter = cfg.Lifetime, cfg.Lifetime/jitterShare
	pc.MaxConnIdleTime = maxConnIdleTime
	pc.PingTimeout = pingTimeout
	pc.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	pc.BeforeConnect = func(ctx context.Context, cc *pgx.ConnConfig) error {
		p.prepare(cc)
		return g.mayConnect(ctx)
	}
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		g.opened.Add(1)
		return p.look(ctx, c)
	}
	pc.BeforeClose = func(*pgx.Conn) { g.ended.Add(1) }
	pc.PrepareConn = func(ctx context.Context, c *pgx.Conn) (bool, error) { return p.usable(c) && leaveTenant(ctx, c), nil }
	pc.ConnConfig.ConnectTimeout = connectTimeout
	pc.ConnConfig.Tracer = g
	if cfg.Tracer != nil {
		pc.ConnConfig.Tracer = withGate{multitracer.New(g, cfg.Tracer), g}
	}
	if pc.ConnConfig.RuntimeParams["application_name"] == "" {
		pc.ConnConfig.RuntimeParams["application_name"] = "forgewire"
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, errBadURL
	}
	return pool, nil
}
