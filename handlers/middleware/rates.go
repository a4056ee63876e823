package middleware

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

const (
	// shareEvery is how late a replica learns what the others have counted: a request waits for nobody.
	shareEvery = 250 * time.Millisecond
	// shareAgain is when it tries again after that failed.
	shareAgain = time.Second
	// maxAddresses bounds what is counted in one window. Further addresses are let through.
	maxAddresses = 100_000
	// sharedAtOnce is how many counts travel together.
	sharedAtOnce = 500
)

// Sums are numbers that all replicas share: cache.Cache with Valkey.
type Sums interface {
	Add(ctx context.Context, amounts map[string]int64, life time.Duration) (map[string]int64, error)
}

// Rates counts requests for Rate over all replicas: each counts its own at once, and learns of the others' in the
// background. While Valkey is away, each replica has its own limit. It is an httprate.LimitCounter.
type Rates struct {
	sums   Sums
	logger *slog.Logger
	woken  chan struct{} // capacity 1

	length  time.Duration // of a window; fixed by Config
	mu      sync.Mutex
	windows map[int64]*window // by their begin, in unix nanoseconds: the current one and the one before
}

type window struct {
	counts  map[string]*tally
	changed map[string]*tally // since they were last shared
}

// tally is one address's.
type tally struct{ mine, told, others int64 }

// NewRates makes a counter; Run shares what it counts.
func NewRates(sums Sums, logger *slog.Logger) *Rates {
	return &Rates{sums: sums, logger: logger, woken: make(chan struct{}, 1), windows: map[int64]*window{}}
}

// Config is httprate.LimitCounter's.
func (r *Rates) Config(_ int, length time.Duration) { r.length = length }

// Increment is httprate.LimitCounter's.
func (r *Rates) Increment(key string, at time.Time) error { return r.IncrementBy(key, at, 1) }

// IncrementBy is httprate.LimitCounter's.
func (r *Rates) IncrementBy(key string, at time.Time, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tally(key, at); t != nil {
		t.mine += int64(n)
		r.tally(key, at.Add(-r.length)) // what others answered in the window before counts in part, and may be told late
		r.wake()
	}
	return nil
}

// tally finds or makes an address's tally, which is then shared. It is nil where too many are counted.
func (r *Rates) tally(key string, at time.Time) *tally {
	w := r.windows[at.UnixNano()]
	if w == nil {
		w = &window{counts: map[string]*tally{}, changed: map[string]*tally{}}
		r.windows[at.UnixNano()] = w
	}
	t := w.counts[key]
	if t == nil {
		if len(w.counts) >= maxAddresses {
			return nil
		}
		t = &tally{}
		w.counts[key] = t
	}
	w.changed[key] = t
	return t
}

func (r *Rates) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// Get is httprate.LimitCounter's.
func (r *Rates) Get(key string, current, previous time.Time) (now, before int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count(key, current), r.count(key, previous), nil
}

func (r *Rates) count(key string, at time.Time) int {
	if w := r.windows[at.UnixNano()]; w != nil {
		if t := w.counts[key]; t != nil {
			return int(t.mine + t.others)
		}
	}
	return 0
}

// Run shares what is counted, while something is, until ctx ends.
func (r *Rates) Run(ctx context.Context) error {
	for {
		select {
		case <-r.woken:
		case <-ctx.Done():
			return nil
		}
		wait := shareEvery
		if err := r.share(ctx); err != nil {
			r.logger.DebugContext(ctx, "the other replicas' requests are not known", "error", err)
			wait = shareAgain
			r.wake() // whoever asked need not ask again for the others to learn of it
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// share brings what was counted since the last time to the others, and theirs here.
func (r *Rates) share(ctx context.Context) error {
	for {
		batch, amounts := r.batch()
		if len(amounts) == 0 {
			return nil
		}
		sums, err := r.sums.Add(ctx, amounts, 2*r.length)
		r.mu.Lock()
		for name, one := range batch {
			if err != nil {
				one.w.changed[one.key] = one.t // again, as long as it counts
				continue
			}
			one.t.told += amounts[name]
			one.t.others = sums[name] - one.t.told
		}
		r.mu.Unlock()
		if err != nil {
			return err //nolint:wrapcheck // it says what was attempted
		}
	}
}

type changed struct {
	w   *window
	key string
	t   *tally
}

// batch takes some of what was counted.
func (r *Rates) batch() (map[string]changed, map[string]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch, amounts := map[string]changed{}, map[string]int64{}
	over := time.Now().Add(-2 * r.length).UnixNano() // of no use to anybody
	for begin, w := range r.windows {
		if begin < over {
			delete(r.windows, begin)
			continue
		}
		for key, t := range w.changed {
			if len(batch) == sharedAtOnce {
				return batch, amounts
			}
			name := "rate " + strconv.FormatInt(begin, 36) + " " + key
			batch[name], amounts[name] = changed{w, key, t}, t.mine-t.told
			delete(w.changed, key)
		}
	}
	return batch, amounts
}
