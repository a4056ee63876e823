package db

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// cleanupRows is how many rows a clean-up job removes at a time.
const cleanupRows = 10_000

// CleanAnswers is a CleanupJob that removes idempotency keys that have expired.
func CleanAnswers(ctx context.Context, tx pgx.Tx) error {
	// Where row-level security binds the table's owner too, what has expired is visible to this tenant alone.
	if err := Later(ctx, tx, "SELECT set_config('forgewire.tenant', ' expired', true)"); err != nil {
		return fmt.Errorf("enter what has expired: %w", err)
	}
	_, err := tx.Exec(ctx, `DELETE FROM forgewire.answers WHERE (tenant, key) IN (
		SELECT tenant, key FROM forgewire.answers WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)`, cleanupRows)
	if err != nil {
		return fmt.Errorf("remove expired idempotency keys: %w", err)
	}
	return nil
}

// CleanQueue is a CleanupJob that removes jobs that have ended. River does so only while it runs, which is while something is
// queued. What failed for good stays for a week, for people to look at.
func CleanQueue(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `DELETE FROM forgewire.river_job WHERE id IN (SELECT id FROM forgewire.river_job
		WHERE state IN ('completed', 'cancelled') AND finalized_at < now() - interval '1 hour' OR state = 'discarded' AND finalized_at < now() - interval '7 days'
		LIMIT $1 FOR UPDATE SKIP LOCKED)`, cleanupRows)
	if err != nil {
		return fmt.Errorf("remove jobs that have ended: %w", err)
	}
	return nil
}
