package realtime

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// CleanUp forgets what was hidden of the history once the log itself has dropped it. It is for db.Cleanup.
func CleanUp(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "DELETE FROM forgewire.hidden WHERE upto <= (SELECT retired FROM forgewire.log)"); err != nil {
		return fmt.Errorf("forget what was hidden: %w", err)
	}
	return nil
}

// leaseOver is how long ago a replica's lease ended if nobody else needed to know.
const leaseOver = time.Hour

// CleanPresence removes the members of replicas that died and that nobody survived who has clients: a survivor would have told
// of their leaving. Should such a replica come back, it is told and writes its rows again. It is for db.Cleanup.
func CleanPresence(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "UPDATE forgewire.replicas SET retired = true WHERE NOT retired AND expires < clock_timestamp() - $1::interval", leaseOver)
	if err == nil {
		_, err = tx.Exec(ctx, "DELETE FROM forgewire.presence p WHERE NOT EXISTS (SELECT FROM forgewire.replicas r WHERE r.id = p.replica AND NOT r.retired)")
	}
	if err != nil {
		return fmt.Errorf("forget the members of dead replicas: %w", err)
	}
	return nil
}
