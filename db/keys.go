package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what the table functions need: a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Key is one API key, as the table forgewire.keys has it. In the three limits nil means none.
type Key struct {
	ID                string
	Hash              []byte // SHA-256 of the whole key
	Tenant            string
	Name              string
	Models            []string // patterns; none: every model
	RequestsPerMinute *int64
	TokensPerMinute   *int64
	BudgetMicros      *int64 // a calendar month (UTC)
	Shared            bool
	LogBodies         bool // what is asked with it and answered is kept, beside the run
	Created           time.Time
	Expires           *time.Time
	Revoked           *time.Time
}

// Standing is what a key has left of its minute, and has spent of its month, over all replicas.
type Standing struct {
	RequestsLeft, TokensLeft float64 // meaningless where there is no limit; below 0: debt
	SpentMicros              int64
}

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("not found")

const keyColumns = `k.id, k.hash, k.tenant, k.name, k.models, k.requests_per_minute, k.tokens_per_minute,
	k.budget_micros, k.shared, k.log_bodies, k.created_at, k.expires_at, k.revoked_at`

func (k *Key) fields() []any {
	return []any{&k.ID, &k.Hash, &k.Tenant, &k.Name, &k.Models, &k.RequestsPerMinute, &k.TokensPerMinute,
		&k.BudgetMicros, &k.Shared, &k.LogBodies, &k.Created, &k.Expires, &k.Revoked}
}

// CreateKey stores a key. Created and Revoked are the database's to say.
func CreateKey(ctx context.Context, q Querier, k Key) error {
	models := k.Models
	if models == nil {
		models = []string{}
	}
	_, err := q.Exec(ctx, `INSERT INTO forgewire.keys (id, hash, tenant, name, models, requests_per_minute,
			tokens_per_minute, budget_micros, shared, log_bodies, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		k.ID, k.Hash, k.Tenant, k.Name, models, k.RequestsPerMinute, k.TokensPerMinute, k.BudgetMicros, k.Shared, k.LogBodies, k.Expires)
	if err != nil {
		return fmt.Errorf("create a key: %w", err)
	}
	return nil
}

// KeyMistake says, for people, what CreateKey's error says is wrong with the key, or "" if it is another error.
func KeyMistake(err error) string {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "23514" { // the constraint's name says what is wanted
		return strings.ReplaceAll(pg.ConstraintName, "_", " ")
	}
	return ""
}

// KeyByID reads a key, also one that is revoked or has expired, and its standing. Without one it is ErrNotFound.
func KeyByID(ctx context.Context, q Querier, id string) (Key, Standing, error) {
	var k Key
	var s Standing
	err := q.QueryRow(ctx, `SELECT `+keyColumns+`, forgewire.filled(m.requests, k.requests_per_minute, m.at),
			forgewire.filled(m.tokens, k.tokens_per_minute, m.at), coalesce(u.cost_micros, 0)
		FROM forgewire.keys k LEFT JOIN forgewire.meters m ON m.key_id = k.id
		LEFT JOIN forgewire.usage u ON u.tenant = k.tenant AND u.month = forgewire.this_month() AND u.key_id = k.id
		WHERE k.id = $1`, id).Scan(append(k.fields(), &s.RequestsLeft, &s.TokensLeft, &s.SpentMicros)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return Key{}, Standing{}, ErrNotFound
	}
	if err != nil {
		return Key{}, Standing{}, fmt.Errorf("read a key: %w", err)
	}
	return k, s, nil
}

// ListKeys reads the keys of a tenant, or of all for "", the newest first.
func ListKeys(ctx context.Context, q Querier, tenant string) ([]Key, error) {
	rows, err := q.Query(ctx, `SELECT `+keyColumns+` FROM forgewire.keys k WHERE $1 = '' OR k.tenant = $1
		ORDER BY k.created_at DESC, k.id`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Key, error) {
		var k Key
		err := row.Scan(k.fields()...)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// RevokeKey takes a key back. The transaction also tells every replica. ErrNotFound: there is none, or it was
// revoked before.
func RevokeKey(ctx context.Context, q Querier, id string) error {
	var revoked bool
	if err := q.QueryRow(ctx, `SELECT forgewire.revoke_key($1)`, id).Scan(&revoked); err != nil {
		return fmt.Errorf("revoke a key: %w", err)
	}
	if !revoked {
		return ErrNotFound
	}
	return nil
}
