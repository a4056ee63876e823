package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// createSchema takes a lock of its own, since CREATE SCHEMA IF NOT EXISTS races with itself.
const createSchema = `DO $$ BEGIN
	PERFORM pg_advisory_xact_lock(1181444979, 0);
	CREATE SCHEMA IF NOT EXISTS forgewire;
END $$`

const (
	// A migration waits no longer than this for a lock: whoever comes after it waits behind it, so for as long the
	// whole application may stand still.
	migrateLockTimeout = "500ms"
	migratePause       = 500 * time.Millisecond // before it tries again, and up to twice that
	migratePatience    = 5 * time.Minute        // after which it gives up
)

// Migrate brings the schema "forgewire" up to this binary's version; one that is newer it leaves alone. Any number of
// replicas may call it at once: one migrates, the others wait. Where a lock is not to be had at once, it lets go of all
// it holds and tries again, for some minutes. It holds a session lock, so url must not lead through a pooler in
// transaction mode.
func Migrate(ctx context.Context, url string) error {
	pc, err := pgxpool.ParseConfig(url) // it knows the pool's own parameters, which the server does not
	if err != nil {
		return errBadURL
	}
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET lock_timeout = '"+migrateLockTimeout+"'") // no startup parameter: poolers refuse those
		return err
	}
	if done, err := isMigrated(ctx, pc.ConnConfig); done || err != nil {
		return err
	}
	for deadline := time.Now().Add(migratePatience); ; {
		if err = migrateOnce(ctx, pc); !mayPass(err) || time.Now().After(deadline) {
			return err
		}
		pause := time.NewTimer(migratePause + rand.N(migratePause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// isMigrated says whether there is nothing to do, as for most who start: a look takes one connection, and no lock.
func isMigrated(ctx context.Context, cc *pgx.ConnConfig) (bool, error) {
	c, err := pgx.ConnectConfig(ctx, cc.Copy())
	if err != nil {
		return false, fmt.Errorf("connect to migrate: %w", err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err = CheckMigrated(ctx, c); errors.Is(err, ErrNotMigrated) {
		return false, nil
	}
	return err == nil, err
}

// mayPass says whether an error is of somebody else's lock.
func mayPass(err error) bool {
	failure, ok := errors.AsType[*pgconn.PgError](err)
	// lock_not_available, deadlock_detected
	return ok && (failure.Code == "55P03" || failure.Code == "40P01")
}

func migrateOnce(ctx context.Context, pc *pgxpool.Config) error {
	conn := stdlib.OpenDB(*pc.ConnConfig, stdlib.OptionAfterConnect(pc.AfterConnect))
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, createSchema); err != nil {
		return fmt.Errorf("create schema forgewire: %w", err)
	}
	if err := migrateQueue(ctx, pc); err != nil {
		return err
	}
	p, err := provider(conn)
	if err != nil {
		return err
	}
	if _, err = p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// ErrNotMigrated says that the database lacks a migration that this binary needs.
var ErrNotMigrated = errors.New("the database is not migrated: run `forgewire migrate`, or serve with --migrate")

// CheckMigrated returns ErrNotMigrated if the schema is older than this binary.
func CheckMigrated(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	var have int64
	var exists bool
	err := q.QueryRow(ctx, `SELECT to_regclass('forgewire.schema_migrations') IS NOT NULL`).Scan(&exists)
	if err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if !exists {
		return ErrNotMigrated
	}
	err = q.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM forgewire.schema_migrations WHERE is_applied`).Scan(&have)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if have < newest() {
		return ErrNotMigrated
	}
	err = q.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM forgewire.river_migration WHERE line = 'main'`).Scan(&have)
	if err != nil {
		return fmt.Errorf("read the queue's version: %w", err)
	}
	if have < queueVersion {
		return ErrNotMigrated
	}
	return nil
}

func provider(conn *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open migrations: %w", err)
	}
	store, err := database.NewStore(goose.DialectPostgres, "forgewire.schema_migrations")
	if err != nil {
		return nil, fmt.Errorf("name the migrations table: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, uint64(migratePatience.Seconds()))) // asks once a second
	if err != nil {
		return nil, fmt.Errorf("make the migrations lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectCustom, conn, files, goose.WithStore(store), goose.WithSessionLocker(locker))
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// newest is the version that the embedded migrations lead to.
func newest() int64 {
	files, _ := fs.Glob(migrations, "migrations/*.sql") // the pattern is constant
	var v int64
	for _, f := range files {
		n, err := goose.NumericComponent(f)
		if err == nil && n > v {
			v = n
		}
	}
	return v
}
