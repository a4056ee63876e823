package realtime

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A round trip younger than roundTripGood answers for the present; a new one may take roundTripTimeout.
const (
	roundTripGood    = 3 * time.Second
	roundTripTimeout = 2 * time.Second
)

var errNoEcho = errors.New("a NOTIFY sent through DATABASE_URL did not arrive on LISTEN_DATABASE_URL within 2 s: " +
	"usually LISTEN_DATABASE_URL leads through a pooler in transaction mode, or to another database; give it the direct URL")

// errDeaf ends the listener's session. After a failover the old server may let go of nobody, and answer pings for ever.
var errDeaf = errors.New("what this replica sends does not come back on LISTEN_DATABASE_URL, and nothing else arrives there: " +
	"it leads to a server that is the primary no more, through a pooler in transaction mode, or to another database")

// missedProbes in a row say that a listener that hears nothing else is deaf.
const missedProbes = 3

// silence is the time in which a listener's connection lives and brings nothing.
type silence struct {
	began time.Time
	owed  uint64    // an offset that this replica has committed and that has not come back
	owes  time.Time // since when it is known
}

func (s *silence) end(now time.Time) { s.began, s.owed = now, 0 }

// deaf says whether the connection leads to a server that gets nothing of ours: neither what was committed nor the probes.
// The listener is at an offset, and committed is the last that this replica's publisher has.
func (s *silence) deaf(now time.Time, at, committed uint64, unheard bool) bool {
	if s.owed <= at {
		s.owed, s.owes = committed, now
	}
	return s.owed > at && now.Sub(s.owes) >= pingAfter || unheard && now.Sub(s.began) >= pingAfter
}

// health knows whether this replica can serve: whether a notification sent through the pool comes back
// through the listener. It is safe for concurrent use.
type health struct {
	pool  *pgxpool.Pool
	nonce string // tells our probes from other replicas'

	probing sync.Mutex // one probe at a time; the others take its result

	mu     sync.Mutex
	down   error     // why the listener is not connected; nil when it is
	good   time.Time // of the last round trip
	probes uint64
	missed int // of those in a row
	wait   map[string]chan struct{}
}

func newHealth(pool *pgxpool.Pool) *health {
	return &health{pool: pool, nonce: uuid.NewString(), down: errors.New("not connected to the database yet"), wait: map[string]chan struct{}{}}
}

// warm connects the pool while the listener connects, so that the first probe, and with it whoever waits for this replica
// to start, does not wait for one after the other. Why it cannot be done the probe will say.
func (h *health) warm(ctx context.Context) {
	if c, err := h.pool.Acquire(ctx); err == nil {
		c.Release()
	}
}

func (h *health) connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down, h.good, h.missed = nil, time.Time{}, 0
}

func (h *health) disconnected(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = why
}

// unheard says whether the last probes did not come back.
func (h *health) unheard() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missed >= missedProbes
}

// echo is called for each probe that arrives, also other replicas'.
func (h *health) echo(nonce string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if strings.HasPrefix(nonce, h.nonce) {
		h.missed = 0 // also one that is late, or for which nobody waits any more
	}
	if c, ok := h.wait[nonce]; ok {
		delete(h.wait, nonce)
		close(c)
	}
}

// check returns nil if a notification sent through the pool came back just now, else why not.
func (h *health) check(ctx context.Context) error {
	if done, err := h.known(); done {
		return err
	}
	h.probing.Lock()
	defer h.probing.Unlock()
	if done, err := h.known(); done {
		return err
	}
	return h.probe(ctx)
}

func (h *health) known() (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down != nil || time.Since(h.good) < roundTripGood, h.down
}

func (h *health) probe(ctx context.Context) error {
	h.mu.Lock()
	h.probes++
	nonce := h.nonce + "-" + strconv.FormatUint(h.probes, 10)
	arrived := make(chan struct{})
	h.wait[nonce] = arrived
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.wait, nonce)
	}()
	within, cancel := context.WithTimeout(ctx, roundTripTimeout)
	defer cancel()
	if _, err := h.pool.Exec(within, "SELECT pg_notify($1, $2)", notifyLog, "p "+nonce); err != nil {
		return fmt.Errorf("send a probe through the pool: %w", err)
	}
	select {
	case <-arrived:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.good = time.Now()
		return nil
	case <-within.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, owed := h.wait[nonce]; owed && ctx.Err() == nil { // else it came just now, or who asked has left
			h.missed++
		}
		return errNoEcho
	}
}
