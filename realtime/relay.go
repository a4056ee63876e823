package realtime

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Bounds of the relay. What arrives while a flush is under way waits for the next.
const (
	maxRelayed   = 1024 // commands that may wait; one more gets 503
	maxRelayOnce = 256
	relayTimeout = 5 * time.Second
)

// relay tells other replicas the commands of their streams, in group commits: a NOTIFY in a transaction of
// its own for each request would make every publish wait for it. They are not written, so no flush to disk is
// waited for.
type relay struct {
	pool    *pgxpool.Pool
	waiting chan *forwarded
	closed  chan struct{} // closed when run has returned
	serial  uint64        // owned by run
}

type forwarded struct {
	control control
	done    chan error // buffered: the flush never waits for a caller
}

func newRelay(pool *pgxpool.Pool) *relay {
	return &relay{pool: pool, waiting: make(chan *forwarded, maxRelayed), closed: make(chan struct{})}
}

// forward returns when the replicas were told.
func (r *relay) forward(ctx context.Context, c control) error {
	if len(c.Data) > maxForwarded {
		return ErrLimitExceeded.With(fmt.Sprintf("commands that reach another replica than the connection's can have %d bytes: "+
			"use WebSockets, or route a client to one replica", maxForwarded))
	}
	f := &forwarded{control: c, done: make(chan error, 1)}
	select {
	case <-r.closed:
		return errClosed
	case r.waiting <- f:
	default:
		return ErrTooManyRequests
	}
	select {
	case err := <-f.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the relay: %w", ctx.Err())
	case <-r.closed:
		return errClosed
	}
}

// run forwards until ctx ends. What still waits then is refused: its client connects anew.
func (r *relay) run(ctx context.Context) error {
	defer close(r.closed)
	for {
		select {
		case f := <-r.waiting:
			r.flush(ctx, f)
		case <-ctx.Done():
			return nil
		}
	}
}

// flush tells first and what waits behind it.
func (r *relay) flush(ctx context.Context, first *forwarded) {
	batch := []*forwarded{first}
	for more := true; more && len(batch) < maxRelayOnce; {
		select {
		case f := <-r.waiting:
			batch = append(batch, f)
		default:
			more = false
		}
	}
	err := r.tell(ctx, batch)
	for _, f := range batch {
		f.done <- err
	}
}

func (r *relay) tell(ctx context.Context, batch []*forwarded) error {
	payloads := make([]string, len(batch))
	for i, f := range batch {
		r.serial++
		f.control.Serial = r.serial // Postgres delivers equal notifications of a transaction once
		b, err := json.Marshal(f.control)
		if err != nil {
			return fmt.Errorf("encode a control: %w", err)
		}
		payloads[i] = kindControl + string(b)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayTimeout)
	defer cancel()
	_, err := r.pool.Exec(ctx, "SELECT set_config('synchronous_commit', 'off', true), (SELECT count(pg_notify($1, p)) FROM unnest($2::text[]) AS p)",
		notifyLog, payloads)
	if err != nil {
		return fmt.Errorf("tell the replicas of commands: %w", err)
	}
	return nil
}
