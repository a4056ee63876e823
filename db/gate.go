package db

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/infra/monitor"
)

// gate bounds how many wait for a connection and for how long, and counts. pgxpool does neither, but it lets
// its tracer replace the context of an acquire: so every method of the pool is bounded, and the pool stays a
// *pgxpool.Pool for whoever uses it.
type gate struct {
	timeout time.Duration
	most    int64 // acquires that may be under way: those that find a connection and those that wait
	base    int32 // connections that the pool keeps

	acquiring atomic.Int64
	inUse     atomic.Int64
	lastUse   atomic.Int64 // unix nanoseconds of the last acquire that found or made a connection
	notYet    atomic.Pointer[notYet]

	opened, ended, timedOut, refused atomic.Uint64
}

// notYet is what a server answered that starts up or shuts down, and until when it is not asked again. It makes a process
// for each attempt, also to refuse it: all requests of all replicas together would keep it from getting ready.
type notYet struct {
	err   error
	until time.Time
}

const (
	askAgainAfter    = 100 * time.Millisecond
	cannotConnectNow = "57P03" // SQLSTATE
)

// mayConnect refuses what a server that is not ready need not be asked. It refuses, too, the pool's own attempts to fill
// its base, which it makes every minute, while nobody uses it: a replica at rest takes no connections of the server's, and
// a start opens only what it needs.
func (g *gate) mayConnect(ctx context.Context) error {
	if n := g.notYet.Load(); n != nil && time.Now().Before(n.until) {
		return n.err
	}
	if a, ok := ctx.Value(acquireKey{}).(*acquire); ok {
		a.asked.Store(true)
		return nil
	}
	if time.Since(time.Unix(0, g.lastUse.Load())) > maxConnIdleTime {
		return errNotInUse
	}
	return nil
}

var errNotInUse = errors.New("nobody uses the pool")

// acquireKey finds the acquire that a context belongs to.
type acquireKey struct{}

// acquire is the context of one acquire. It ends as its caller's does, and after the pool's timeout, and then
// tells which of the two it was.
type acquire struct {
	context.Context // with the pool's timeout
	parent          context.Context
	cancel          context.CancelFunc
	refused         bool
	asked           atomic.Bool // the server, for a connection
	timer           monitor.Timer
}

// Err returns the caller's own reason before the pool's.
func (a *acquire) Err() error {
	switch {
	case a.parent.Err() != nil:
		return a.parent.Err()
	case a.refused:
		return errQueueFull
	case a.Context.Err() != nil:
		return errAcquireTimeout
	}
	return nil
}

func (a *acquire) Value(key any) any {
	if key == (acquireKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// TraceAcquireStart lets an acquire begin, or gives it a context that has already ended.
func (g *gate) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	a := &acquire{parent: ctx, timer: monitor.Span(ctx, monitor.PoolWait)}
	a.Context, a.cancel = context.WithTimeout(ctx, g.timeout)
	if g.acquiring.Add(1)+g.inUse.Load() > g.most {
		a.refused = true
		a.cancel()
	}
	return a
}

// TraceAcquireEnd counts how it ended.
func (g *gate) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, d pgxpool.TraceAcquireEndData) {
	g.acquiring.Add(-1)
	a, ok := ctx.Value(acquireKey{}).(*acquire)
	if ok {
		a.cancel()
		a.timer.End()
	}
	var refusal *pgconn.PgError
	switch {
	case d.Err == nil:
		g.inUse.Add(1)
		g.lastUse.Store(time.Now().UnixNano())
	case errors.Is(d.Err, errQueueFull):
		g.refused.Add(1)
	case errors.Is(d.Err, errAcquireTimeout):
		g.timedOut.Add(1)
	case ok && a.asked.Load() && errors.As(d.Err, &refusal) && refusal.Code == cannotConnectNow:
		g.notYet.Store(&notYet{err: d.Err, until: time.Now().Add(askAgainAfter)})
	}
}

// TraceRelease counts a connection that is given back.
func (g *gate) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) { g.inUse.Add(-1) }

// withGate is several tracers, one of which is the gate.
type withGate struct {
	*multitracer.Tracer
	gate *gate
}
