package monitor

import (
	"context"
	"sync/atomic"
	"time"
)

// Part is something that a request waits for.
type Part int

// The parts.
const (
	PoolWait Part = iota // for a connection to the database
	Query                // for the database
	Cache
	Upstream // for a model
	parts
)

var partNames = [parts]string{"pool_wait", "query", "cache", "upstream"}

func (p Part) String() string { return partNames[p] }

// Request is one request under way. Its parts may be added by several goroutines.
type Request struct {
	monitor *Monitor
	began   time.Time
	tenant  atomic.Pointer[string]
	done    atomic.Bool
	waited  atomic.Int64        // nanoseconds, until what follows is a stream; 0 where nothing is
	parts   [parts]atomic.Int64 // nanoseconds
}

type requestKey struct{}

// Begin starts a request. The context that it returns leads to it.
func (m *Monitor) Begin(ctx context.Context) (context.Context, *Request) {
	r := &Request{monitor: m, began: time.Now()}
	return context.WithValue(ctx, requestKey{}, r), r
}

// From returns the request that ctx belongs to, or nil.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(requestKey{}).(*Request)
	return r
}

// SetTenant says whose request it is. It does nothing where there is no request.
func SetTenant(ctx context.Context, tenant string) {
	if r := From(ctx); r != nil {
		r.tenant.Store(&tenant)
	}
}

// Done records the request under its route's pattern, once: what calls after the first say does not count.
func (r *Request) Done(route, method string, status int) {
	if r.done.Swap(true) {
		return
	}
	took := time.Since(r.began)
	if waited := r.waited.Load(); waited > 0 {
		took = time.Duration(waited)
	}
	r.monitor.record(r, route, method, status, took)
}

// Begun ends the request's duration, but not the request: what follows takes as long as its client takes to send it.
func (r *Request) Begun() { r.waited.CompareAndSwap(0, int64(time.Since(r.began))) }

// Timer measures one part of a request, for Span.
type Timer struct {
	request *Request
	part    Part
	began   time.Time
}

// Span begins a part of ctx's request; its End adds the time to the request. It costs next to nothing where there
// is no request.
func Span(ctx context.Context, p Part) Timer {
	r := From(ctx)
	if r == nil {
		return Timer{}
	}
	return Timer{request: r, part: p, began: time.Now()}
}

// Active says whether the timer belongs to a request.
func (t Timer) Active() bool { return t.request != nil }

// End ends the part.
func (t Timer) End() {
	if t.request != nil {
		t.request.parts[t.part].Add(int64(time.Since(t.began)))
	}
}
