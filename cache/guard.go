package cache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	// patience is how long anybody waits for Valkey; an answer that comes later is none.
	patience = 50 * time.Millisecond
	// commandTimeout ends a command that nobody waits for any more.
	commandTimeout = 500 * time.Millisecond
	// maxCalls bounds the calls under way. Above it a call is not made.
	maxCalls = 512
)

var (
	errAway = fmt.Errorf("%w: no connection", ErrUnavailable)
	errBusy = fmt.Errorf("%w: too many calls under way", ErrUnavailable)
	errLate = fmt.Errorf("%w: no answer in %s", ErrUnavailable, patience)
)

// exchange is one call of Valkey under way.
type exchange[T any] struct {
	done  chan struct{} // closed when value and err are set
	value T
	err   error
	told  atomic.Bool // the breaker knows how it went
}

// begin starts one exchange, or refuses at once. The library's calls may ignore
// their context while it connects, so each runs in a goroutine of its own, on a
// context that is not the caller's: a caller that has little time left says nothing
// about the server, and others may wait for the same. What f does it must not do to
// the caller's variables, since the caller may have gone.
func begin[T any](ctx context.Context, r *remote, f func(context.Context, valkey.Client) (T, error)) (*exchange[T], error) {
	client := r.client.Load()
	if client == nil || r.breaker.isOpen() {
		r.counters.skipped.Add(1)
		return nil, errAway
	}
	select {
	case r.calls <- struct{}{}:
	default:
		r.counters.skipped.Add(1)
		return nil, errBusy
	}
	x := &exchange[T]{done: make(chan struct{})}
	began := time.Now()
	go func() {
		defer func() { <-r.calls }()
		defer close(x.done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
		defer cancel()
		x.value, x.err = f(ctx, *client)
		r.report(&x.told, x.err, time.Since(began))
	}()
	return x, nil
}

// wait returns the answer, or gives up after patience.
func (x *exchange[T]) wait(ctx context.Context, r *remote) (T, error) {
	var none T
	timer := time.NewTimer(r.patience)
	defer timer.Stop()
	select {
	case <-x.done:
		return x.value, x.err
	case <-timer.C:
		r.report(&x.told, errLate, r.patience)
		return none, errLate
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// call is begin and wait.
func call[T any](ctx context.Context, r *remote, f func(context.Context, valkey.Client) (T, error)) (T, error) {
	x, err := begin(ctx, r, f)
	if err != nil {
		var none T
		return none, err
	}
	return x.wait(ctx, r)
}

// report tells the breaker how a call went, once for each.
func (r *remote) report(told *atomic.Bool, err error, took time.Duration) {
	if !told.CompareAndSwap(false, true) {
		return
	}
	switch {
	case took > r.patience || err != nil && !answered(err):
		r.counters.errors.Add(1)
		r.breaker.failure()
	case err != nil && !valkey.IsValkeyNil(err):
		r.counters.errors.Add(1)
		r.breaker.success() // it answers, if only to refuse: full, read-only, not permitted
	default:
		r.breaker.success()
	}
}

// answered tells whether an error is what the server said, or that it said nothing.
func answered(err error) bool {
	if _, ok := valkey.IsValkeyErr(err); ok {
		return true
	}
	return valkey.IsValkeyNil(err) || errors.Is(err, errNotOurs)
}
