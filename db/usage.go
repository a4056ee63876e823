package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Use is what one key did since it was last settled.
type Use struct {
	KeyID  string // "" is the server's own key
	Tenant string

	TakenRequests, TakenTokens int64 // what goes off the minute's limits

	Requests         int64
	Cached           int64 // requests that no upstream was asked for
	Unpriced         int64 // requests that an upstream answered at a price that is not known
	PromptTokens     int64
	CompletionTokens int64
	CostMicros       int64
	SavedMicros      int64 // what the cached ones would have cost
}

// Settle adds uses to the month and to the meters, in one round trip, and returns the standing of each key that
// exists, over all replicas.
func Settle(ctx context.Context, q Querier, uses []Use) (map[string]Standing, error) {
	n := len(uses)
	ids, tenants := make([]string, n), make([]string, n)
	var numbers [9][]int64
	for i := range numbers {
		numbers[i] = make([]int64, n)
	}
	for i, u := range uses {
		ids[i], tenants[i] = u.KeyID, u.Tenant
		for j, v := range [...]int64{u.TakenRequests, u.TakenTokens, u.Requests, u.Cached, u.Unpriced, u.PromptTokens, u.CompletionTokens, u.CostMicros, u.SavedMicros} {
			numbers[j][i] = v
		}
	}
	args := []any{ids, tenants}
	for _, column := range numbers {
		args = append(args, column)
	}
	rows, err := q.Query(ctx, `SELECT key_id, requests_left, tokens_left, spent
		FROM forgewire.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, args...)
	if err != nil {
		return nil, fmt.Errorf("settle the keys' use: %w", err)
	}
	standings := make(map[string]Standing, n)
	var id string
	var s Standing
	_, err = pgx.ForEachRow(rows, []any{&id, &s.RequestsLeft, &s.TokensLeft, &s.SpentMicros}, func() error {
		standings[id] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("settle the keys' use: %w", err)
	}
	return standings, nil
}

// Usage is what a tenant's key used in a calendar month (UTC).
type Usage struct {
	KeyID                          string // "" is the server's own key
	Requests, Cached, Unpriced     int64
	PromptTokens, CompletionTokens int64
	CostMicros, SavedMicros        int64
}

// UsageOf reads what a tenant used in the month in which a moment lies, key by key.
func UsageOf(ctx context.Context, pool *pgxpool.Pool, tenant string, at time.Time) ([]Usage, error) {
	usage, err := query(ctx, pool, tenant, `SELECT key_id, requests, cached, unpriced, prompt_tokens, completion_tokens, cost_micros, saved_micros
		FROM forgewire.usage WHERE tenant = $1 AND month = date_trunc('month', $2::timestamptz AT TIME ZONE 'UTC')::date
		ORDER BY key_id`, []any{tenant, at}, func(rows pgx.Rows) ([]Usage, error) { return pgx.CollectRows(rows, pgx.RowToStructByPos[Usage]) })
	if err != nil {
		return nil, fmt.Errorf("read the usage: %w", err)
	}
	return usage, nil
}
