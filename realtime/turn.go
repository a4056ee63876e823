package realtime

import (
	"context"
	"fmt"
	"time"
)

// Bounds of what subscribers read of the past: so many read at once, and one waits so long for its turn.
const (
	maxTurns = 16
	turnWait = 30 * time.Second
)

// turn waits until a subscriber may read. After a restart all clients ask at once: they wait here, and not in
// the pool, whose queue is short and which other requests need too. Whoever waits too long comes back later.
func (l *Log) turn(ctx context.Context) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	select {
	case l.turns <- struct{}{}:
		return func() { <-l.turns }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to read the past: %w", ctx.Err())
	}
}
