package realtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
)

// Bounds of the commands that are passed on to other replicas. Nobody can tell here whether a session is there, and
// each that is passed on is a notification, which all replicas hear.
const (
	maxForwardSessions = 2000             // of other replicas, whose clients send commands here
	newForwardSessions = 200              // a second
	newAddressSessions = 50               // of them, from one address: a stranger who makes them up does not take all
	forwardIdle        = 10 * time.Second // after which a session makes room for another
	maxLeaseWaits      = 256              // requests that wait to hear whether a replica is there
	leaseLookEvery     = 100 * time.Millisecond
	leaseWritten       = 400 * time.Millisecond // after a replica's first client has come
)

// Why commands are not passed on.
var (
	errNoReplica   = errors.New("no such replica")
	errSessionRate = errors.New("too many commands of this session, or too many new sessions")
	errForwardFull = errors.New("too many sessions, or too many requests that wait")
)

// forwarding decides which commands are passed on: those for a replica that holds a lease, as often as one client may
// send any. It is safe for concurrent use.
type forwarding struct {
	look func(context.Context) (map[string]time.Duration, error) // how long the leases of other replicas last
	rate int                                                     // commands a second of one client; 0 for no limit

	addresses gate // of new sessions

	waits chan struct{} // has a place for each request that waits
	turn  chan struct{} // held by the one that looks

	mu       sync.Mutex
	leases   map[string]time.Time         // guarded by mu, like all below: until when each lasts
	looked   time.Time                    // when the last look began
	failed   error                        // what came of it
	sessions *lru.Cache[string, *passage] // the one that was used last is the last to go
	fresh    bucket
}

// A passage is a session's way to its replica.
type passage struct {
	commands bucket
	used     time.Time
}

func newForwarding(look func(context.Context) (map[string]time.Duration, error), rate int) (*forwarding, error) {
	sessions, err := lru.New[string, *passage](maxForwardSessions)
	if err != nil {
		return nil, fmt.Errorf("make the memory of sessions: %w", err)
	}
	f := &forwarding{look: look, rate: rate, sessions: sessions, waits: make(chan struct{}, maxLeaseWaits), turn: make(chan struct{}, 1)}
	if f.addresses.rates, err = newRates(); err != nil {
		return nil, err
	}
	return f, nil
}

// admit returns nil if a command of a session, which came from an address, may be passed on to its replica.
func (f *forwarding) admit(ctx context.Context, from netip.Prefix, replica, session string) error {
	if !f.sessions.Contains(replica+session) && !f.addresses.knock(from, newAddressSessions) {
		return errSessionRate
	}
	there, err := f.there(ctx, replica)
	if err != nil {
		return err
	}
	if !there {
		return errNoReplica
	}
	return f.count(replica+session, time.Now())
}

// count takes one command of a session, and one session more if it is new.
func (f *forwarding) count(key string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, known := f.sessions.Get(key)
	if !known {
		if _, oldest, _ := f.sessions.GetOldest(); f.sessions.Len() == maxForwardSessions && now.Sub(oldest.used) < forwardIdle {
			return errForwardFull
		}
		if !f.fresh.try(now, newForwardSessions, newForwardSessions) {
			return errSessionRate
		}
		p = &passage{}
		f.sessions.Add(key, p)
	}
	p.used = now
	if f.rate > 0 && !p.commands.try(now, float64(f.rate), float64(max(f.rate, maxSessionCommands))) {
		return errSessionRate
	}
	return nil
}

// there reports whether a replica holds a lease. One that was never heard of may have got its first client just now,
// so what a look says of it counts only if the lease had the time to be written.
func (f *forwarding) there(ctx context.Context, replica string) (bool, error) {
	if f.known(replica) {
		return true, nil
	}
	select {
	case f.waits <- struct{}{}:
		defer func() { <-f.waits }()
	default:
		return false, errForwardFull
	}
	for asked := time.Now(); ; {
		began, err := f.lookOnce(ctx)
		if err != nil {
			return false, err
		}
		if f.known(replica) {
			return true, nil
		}
		if began.Sub(asked) >= leaseWritten {
			return false, nil
		}
	}
}

func (f *forwarding) known(replica string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.leases[replica])
}

// lookOnce waits for its turn, and looks into the table once the last look is old enough. It returns when the newest
// look began.
func (f *forwarding) lookOnce(ctx context.Context) (began time.Time, err error) {
	before, _ := f.lastLook()
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return began, fmt.Errorf("wait to hear of the replicas: %w", ctx.Err())
	}
	if last, err := f.lastLook(); last.After(before) {
		return last, err // somebody else looked meanwhile
	}
	due := time.NewTimer(time.Until(before.Add(leaseLookEvery)))
	defer due.Stop()
	select {
	case <-due.C:
	case <-ctx.Done():
		return began, fmt.Errorf("wait to hear of the replicas: %w", ctx.Err())
	}
	began = time.Now()
	leases, err := f.look(context.WithoutCancel(ctx)) // others wait for it, too
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looked, f.failed = began, err; err != nil {
		return began, err
	}
	f.leases = make(map[string]time.Time, len(leases))
	for id, left := range leases {
		f.leases[id] = began.Add(left)
	}
	return began, nil
}

func (f *forwarding) lastLook() (began time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looked, f.failed
}

// leasesOfOthers says how long each of the other replicas' leases lasts. The server's clock alone counts.
func (n *Node) leasesOfOthers(ctx context.Context) (map[string]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	rows, err := n.cfg.PublishPool.Query(ctx, `SELECT id, expires - clock_timestamp() FROM forgewire.replicas
		WHERE expires > clock_timestamp() AND NOT retired AND id <> $1`, n.id)
	if err != nil {
		return nil, fmt.Errorf("look at the leases: %w", err)
	}
	leases := map[string]time.Duration{}
	var id string
	var left time.Duration
	if _, err = pgx.ForEachRow(rows, []any{&id, &left}, func() error { leases[id] = left; return nil }); err != nil {
		return nil, fmt.Errorf("look at the leases: %w", err)
	}
	return leases, nil
}

// refuseForward answers a command that was not passed on.
func (n *Node) refuseForward(w http.ResponseWriter, r *http.Request, err error) {
	var e *Error
	switch {
	case errors.Is(err, errNoReplica):
		refuse(w, http.StatusNotFound, ErrNotAvailable.With("the connection is gone"))
	case errors.Is(err, errSessionRate):
		refuse(w, http.StatusTooManyRequests, ErrTooManyRequests)
	case errors.Is(err, errForwardFull):
		refuse(w, http.StatusServiceUnavailable, ErrTooManyRequests)
	case !errors.As(err, &e):
		n.logger.WarnContext(r.Context(), "commands could not be passed on to the connection's replica", "error", err)
		refuse(w, http.StatusServiceUnavailable, ErrInternal)
	case e.Temporary:
		refuse(w, http.StatusServiceUnavailable, e)
	default:
		refuse(w, http.StatusRequestEntityTooLarge, e)
	}
}
