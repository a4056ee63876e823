package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"forgewire/cache/llm"
	"forgewire/db"
)

const (
	freshFor    = time.Minute            // how long a verdict is not asked for again, if nothing is heard of the key
	keptFor     = 15 * time.Minute       // how long it stands in if the database cannot be asked
	askAgain    = 5 * time.Second        // after that failed, with a verdict that stands in
	askTimeout  = 2 * time.Second        // one look into the database
	hurry       = 250 * time.Millisecond // the same where an old verdict could stand in
	maxVerdicts = 10_000                 // of each kind: for keys that there are, and for others
	maxAsking   = 4                      // looks at once: a flood of made-up keys must not take the pool
)

// DefaultTenant is whose the server's own key is.
const DefaultTenant = "default"

// hash is of a whole key, and all that verdicts are remembered by: a part of it would let one key pass for
// another.
type hash = [sha256.Size]byte

// verdict is what is known of one key. It never changes.
type verdict struct {
	id      string
	caller  llm.Caller
	refusal *llm.Refusal // nil if the key is good
	expires time.Time    // zero: never

	epoch uint64    // of the verifier, when it was found
	fresh time.Time // not asked for again until then
	kept  time.Time // stands in until then
}

func (v *verdict) judge(now time.Time) (llm.Caller, *llm.Refusal) {
	switch {
	case v.refusal != nil:
		return llm.Caller{}, v.refusal
	case !v.expires.IsZero() && !now.Before(v.expires):
		return llm.Caller{}, expiredKey
	}
	return v.caller, nil
}

// verifier finds out whose a key is. It is safe for concurrent use.
type verifier struct {
	pool      db.Querier
	logger    *slog.Logger
	serverKey hash
	hasServer bool
	learned   func(db.Key, db.Standing) // of a good key

	known, unknown *otter.Cache[hash, *verdict] // two, so that made-up keys push no real one out
	asking         singleflight.Group           // by the whole hash, and what was heard until then
	turns          chan struct{}                // room for those who ask

	warned  atomic.Int64  // when it last did, in seconds since 1970
	epoch   atomic.Uint64 // counts the times that everything was forgotten
	changes atomic.Uint64 // counts what was heard: what was read before must not be stored after

	mu sync.Mutex // held to write known, unknown and changes
}

func newVerifier(pool db.Querier, logger *slog.Logger, serverKey string, learned func(db.Key, db.Standing)) *verifier {
	cache := func() *otter.Cache[hash, *verdict] {
		return otter.Must(&otter.Options[hash, *verdict]{MaximumSize: maxVerdicts, Executor: func(f func()) { f() }})
	}
	return &verifier{pool: pool, logger: logger, serverKey: sha256.Sum256([]byte(serverKey)), hasServer: serverKey != "",
		learned: learned, known: cache(), unknown: cache(), turns: make(chan struct{}, maxAsking)}
}

// verify says who the caller with a key is, or why he is refused.
func (v *verifier) verify(ctx context.Context, key string) (llm.Caller, *llm.Refusal) {
	h := sha256.Sum256([]byte(key))
	if v.hasServer && subtle.ConstantTimeCompare(h[:], v.serverKey[:]) == 1 {
		return llm.Caller{Tenant: DefaultTenant}, nil
	}
	id, ok := keyID(key)
	if !ok {
		return llm.Caller{}, invalidKey
	}
	found, ok := v.known.GetIfPresent(h)
	if !ok {
		found, ok = v.unknown.GetIfPresent(h)
	}
	now := time.Now()
	if ok && now.Before(found.fresh) && found.epoch == v.epoch.Load() {
		return found.judge(now)
	}
	// Whoever leads asks for all who wait, so neither his leaving nor his deadline may end it. And nobody joins
	// those who asked before a change that was heard since.
	changes := v.changes.Load()
	answer, err, _ := v.asking.Do(string(binary.BigEndian.AppendUint64(h[:], changes)), func() (any, error) {
		return v.ask(context.WithoutCancel(ctx), h, id, found, changes)
	})
	if err != nil {
		if v.mayWarn() {
			v.logger.WarnContext(ctx, "an API key could not be looked up", "key", id, "error", err)
		}
		return llm.Caller{}, unavailable
	}
	return answer.(*verdict).judge(time.Now())
}

// ask looks a key up and remembers the answer. If that fails, the old verdict stands in, if there is one.
func (v *verifier) ask(ctx context.Context, h hash, id string, old *verdict, changes uint64) (*verdict, error) {
	timeout := askTimeout
	standsIn := old != nil && time.Now().Before(old.kept)
	if standsIn {
		timeout = hurry
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	epoch := v.epoch.Load()
	found, err := v.look(ctx, h, id)
	if err != nil {
		if !standsIn {
			return nil, err
		}
		if v.mayWarn() {
			v.logger.WarnContext(ctx, "an API key could not be looked up: what was known of it stands in", "key", id, "error", err)
		}
		again := *old
		again.epoch, again.fresh = epoch, time.Now().Add(askAgain)
		found = &again
	}
	found.epoch = epoch
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changes.Load() != changes {
		return found, nil // right for those who asked before the change; the next one asks again
	}
	if found.id == "" {
		v.known.Invalidate(h)
		v.unknown.Set(h, found)
	} else {
		v.known.Set(h, found)
	}
	return found, nil
}

// mayWarn says yes once a second: whoever sends made-up keys while the database is away must not fill the log.
func (v *verifier) mayWarn() bool {
	now := time.Now().Unix()
	last := v.warned.Load()
	return last != now && v.warned.CompareAndSwap(last, now)
}

// look reads the key's row. An id that does not exist and a wrong secret take the same way: one query and one
// comparison.
func (v *verifier) look(ctx context.Context, h hash, id string) (*verdict, error) {
	select {
	case v.turns <- struct{}{}:
		defer func() { <-v.turns }()
	case <-ctx.Done():
		return nil, errors.New("too many keys are being looked up")
	}
	key, standing, err := db.KeyByID(ctx, v.pool, id)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return nil, err
	}
	now := time.Now()
	found := &verdict{refusal: invalidKey, fresh: now.Add(freshFor), kept: now.Add(keptFor)}
	var stored hash
	copy(stored[:], key.Hash)
	if subtle.ConstantTimeCompare(stored[:], h[:]) != 1 {
		return found, nil
	}
	found.id, found.refusal = id, nil
	found.caller = llm.Caller{Tenant: key.Tenant, KeyID: id, Models: key.Models, Shared: key.Shared, LogBodies: key.LogBodies}
	if key.Expires != nil {
		found.expires = *key.Expires
	}
	if key.Revoked != nil {
		found.refusal = revokedKey
		return found, nil
	}
	v.learned(key, standing)
	return found, nil
}

// hear takes what was announced: the id of a key that changed, which is forgotten at once; or nothing, where some
// announcement may have been missed. Then every verdict is asked for anew; but if the database is away, which is
// how announcements are missed, the old ones stand in, as ever.
func (v *verifier) hear(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes.Add(1)
	if id == "" {
		v.epoch.Add(1)
		return
	}
	for h, found := range v.known.All() {
		if found.id == id {
			v.known.Invalidate(h)
		}
	}
}
