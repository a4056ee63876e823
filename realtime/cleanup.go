package realtime

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CleanUp forgets what was hidden of the history once the log itself has dropped it. It is for db.Cleanup.
func CleanUp(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "DELETE FROM forgewire.hidden WHERE upto <= (SELECT retired FROM forgewire.log)"); err != nil {
		return fmt.Errorf("forget what was hidden: %w", err)
	}
	return nil
}
