package cache

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	// leaseLife is how long a lease outlives its holder's last sign of life. With
	// leasePoll it bounds how long a dead holder keeps others waiting: under a second.
	leaseLife  = 750 * time.Millisecond
	leaseRenew = 200 * time.Millisecond
	// leasePoll is how often who waits looks again, besides when it is told of a change.
	leasePoll = 50 * time.Millisecond
)

// lease is the right to fill a value, one in all replicas, and the condition under
// which the result is stored: a delete or a set takes it away, and so a value that
// was made of what was true before is dropped.
type lease struct {
	name  string // of the value
	token string
}

var (
	renewScript = valkey.NewLuaScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0`)
	yieldScript = valkey.NewLuaScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)
	storeScript = valkey.NewLuaScript(`if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return redis.call('DEL', KEYS[2])`)
)

// look is what one round trip says: whether the lease is ours now, and what the
// value is. Where the lease is held by another, the reply's read makes Valkey tell
// of the value's next change.
type look struct {
	leased bool
	data   []byte
}

func (r *remote) tryLease(ctx context.Context, l lease) (look, error) {
	return call(ctx, r, func(ctx context.Context, v valkey.Client) (look, error) {
		replies := v.DoMulti(ctx,
			v.B().Set().Key(leaseName(l.name)).Value(l.token).Nx().Px(leaseLife).Build(),
			v.B().Get().Key(l.name).Build())
		err := replies[0].Error()
		if err != nil && !valkey.IsValkeyNil(err) {
			return look{}, err
		}
		data, failed := replies[1].AsBytes()
		if failed != nil && !valkey.IsValkeyNil(failed) {
			return look{}, failed
		}
		return look{leased: err == nil, data: data}, nil
	})
}

// seek waits until the lease is ours or a fresh value is there. ok is false where
// Valkey is of no use: then the fill is for this process alone.
func (r *remote) seek(ctx context.Context, name string) (l lease, found *record, ok bool) {
	l = lease{name: name, token: r.owner + rand.Text()}
	timer := time.NewTimer(leasePoll)
	defer timer.Stop()
	var answered time.Time // when we last heard that another holds it
	for {
		changed := r.waiters.on(name)
		m := r.local.marks(name, nil)
		got, err := r.tryLease(ctx, l)
		if err != nil && (r.breaker.isOpen() || time.Since(answered) > leaseLife) {
			r.waiters.off(name, changed)
			return l, nil, false
		}
		if rec := r.fresh(ctx, name, got.data, m); rec != nil {
			r.waiters.off(name, changed)
			if got.leased {
				r.yield(ctx, l)
			}
			return l, rec, true
		}
		if got.leased {
			r.waiters.off(name, changed)
			return l, nil, true
		}
		if err == nil {
			answered = time.Now()
		}
		timer.Reset(leasePoll)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			r.waiters.off(name, changed)
			return l, nil, false
		}
		r.waiters.off(name, changed)
	}
}

// fresh returns what was read if it may be served as it is.
func (r *remote) fresh(ctx context.Context, name string, data []byte, m marks) *record {
	if data == nil || r.pending.has(name) {
		return nil
	}
	s, err := r.decode(data, m)
	if err != nil {
		return nil
	}
	rec, ok := r.accept(ctx, name, s)
	if !ok || !rec.fresh(time.Now()) {
		return nil
	}
	return &rec
}

// hold keeps the lease until ctx ends.
func (r *remote) hold(ctx context.Context, l lease) {
	ticker := time.NewTicker(leaseRenew)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_, _ = call(ctx, r, func(ctx context.Context, v valkey.Client) (struct{}, error) { // the next one may succeed
				return struct{}{}, renewScript.Exec(ctx, v, []string{leaseName(l.name)}, []string{l.token, millis(leaseLife)}).Error()
			})
		}
	}
}

// yield gives the lease back. Where it cannot, the lease runs out.
func (r *remote) yield(ctx context.Context, l lease) {
	_, _ = call(ctx, r, func(ctx context.Context, v valkey.Client) (struct{}, error) {
		return struct{}{}, yieldScript.Exec(ctx, v, []string{leaseName(l.name)}, []string{l.token}).Error()
	})
}

// fulfil stores what was filled under the lease, if we hold it still.
func (r *remote) fulfil(ctx context.Context, l lease, rec record, tags []tagged) {
	data, saved := r.codec.encode(rec, tags)
	stored, err := call(ctx, r, func(ctx context.Context, v valkey.Client) (int64, error) {
		return storeScript.Exec(ctx, v, []string{l.name, leaseName(l.name)},
			[]string{l.token, valkey.BinaryString(data), millis(rec.ttl + rec.stale)}).AsInt64()
	})
	if err == nil && stored == 1 {
		r.counters.sets.Add(1)
		r.counters.saved.Add(int64(saved))
	}
	if err != nil {
		r.yield(ctx, l) // others need not wait until it runs out
	}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
