package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// answerLife is how long an idempotency key is remembered.
const answerLife = 24 * time.Hour

// Answer is how a request with an idempotency key was answered.
type Answer struct {
	Fingerprint []byte // of the request
	Status      int
	Header      map[string]string
	Body        []byte
}

// ClaimAnswer takes an idempotency key for the transaction, inside InTenant. If a request had it before, that
// one's answer is returned instead; if one has it now, that is waited for.
func ClaimAnswer(ctx context.Context, tx pgx.Tx, key string, fingerprint []byte) (earlier *Answer, err error) {
	rows, err := tx.Query(ctx, "SELECT * FROM forgewire.claim_answer($1, $2, $3)", key, fingerprint, answerLife)
	if err != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Answer])
	if err != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	if len(found) == 0 {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	return found[0], nil
}

// KeepAnswer stores the answer under the key that the transaction has claimed.
func KeepAnswer(ctx context.Context, tx pgx.Tx, tenant, key string, a Answer) error {
	header, err := json.Marshal(a.Header)
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	err = Later(ctx, tx, "UPDATE forgewire.answers SET status = $3, header = $4::text::jsonb, body = $5 WHERE tenant = $1 AND key = $2",
		tenant, key, a.Status, string(header), a.Body)
	if err != nil {
		return fmt.Errorf("keep an answer: %w", err)
	}
	return nil
}
