package db

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Defaults of the pool: base and ceiling are the user guide's (20 and 15 more).
const (
	DefaultMinIdleConns = 1 // a replica that nobody uses holds next to nothing of the server
	DefaultMaxConns     = 35
	maxConnLifetime     = time.Hour
	lifetimeJitter      = 6 * time.Minute // so that a fleet does not reconnect in step
	maxConnIdleTime     = 10 * time.Minute
	connectTimeout      = 5 * time.Second
)

// PoolConfig says how to reach the database.
type PoolConfig struct {
	URL      string // postgres://… or key=value
	MaxConns int32  // 0: DefaultMaxConns
	KeepNone bool   // no connection while it is not used, so that a serverless database can sleep
	// Pooled says that URL leads to a pooler in transaction mode, which hands each transaction to whatever connection
	// is free: statements that an earlier one prepared may not be there.
	Pooled bool
}

// errBadURL replaces pgx's own error, which quotes the URL and with it the password.
var errBadURL = errors.New("the database URL is not valid: expected postgres://user:password@host:5432/database")

// NewPool makes the pool, and connects when it is first used: the server may be away. It is safe for
// concurrent use.
func NewPool(ctx context.Context, cfg PoolConfig) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errBadURL
	}
	pc.MaxConns = DefaultMaxConns
	if cfg.MaxConns > 0 {
		pc.MaxConns = cfg.MaxConns
	}
	if pc.MinIdleConns = DefaultMinIdleConns; cfg.KeepNone {
		pc.MinIdleConns = 0
	}
	if cfg.Pooled && pc.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pc.MaxConnLifetime = maxConnLifetime
	pc.MaxConnLifetimeJitter = lifetimeJitter
	pc.MaxConnIdleTime = maxConnIdleTime
	pc.ConnConfig.ConnectTimeout = connectTimeout
	if pc.ConnConfig.RuntimeParams["application_name"] == "" {
		pc.ConnConfig.RuntimeParams["application_name"] = "forgewire"
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, errBadURL
	}
	return pool, nil
}
