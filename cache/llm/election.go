package llm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Times of the elections. A replica that leads or follows says every beat that it lives; one that was silent for
// ownerDead, as the database sees it, in two looks, is replaced: within a second.
const (
	beat        = 200 * time.Millisecond
	ownerDead   = 600 * time.Millisecond
	landedFor   = 15 * time.Second // longer than a request is between its look into the cache and its election
	sweepEvery  = 5 * time.Second
	electWithin = 250 * time.Millisecond // then the request goes alone
	electAgain  = time.Second            // after a failed election, how long all go alone
	beatWithin  = 2 * time.Second

	maxElections    = 4096 // that wait; one more goes alone
	electionsAtOnce = 256
)

var errNoElection = errors.New("no election is possible now")

// elector decides through Postgres which replica generates an answer: whoever inserts the key. Elections that
// arrive while one is under way share the next round trip. A replica without flights runs no query.
type elector struct {
	pool    *pgxpool.Pool
	owner   string
	waiting chan *candidacy
	downTil atomic.Int64 // unix ns: elections fail at once until then
	seen    atomic.Int64 // unix ns: when the database last heard that this replica lives
	wake    chan struct{}
	forget  func(key) // takes an answer out of the cache that was purged before it was stored

	mu       sync.Mutex
	led      map[key]struct{} // guarded by mu, like all below
	watched  map[*watch]struct{}
	landings []landing
	sweepBy  time.Time // rows of ours may need sweeping until then
}

type candidacy struct {
	key    key
	id     string
	tenant string       // whose, hashed
	done   chan verdict // buffered
}

// A verdict says who generates an answer.
type verdict struct {
	err     error
	mine    bool
	id      string // the winner's
	attempt int
	landed  bool
	age     time.Duration // since it landed
	purged  bool          // nobody may join it any more
}

// A landing is the end of a flight that this replica led.
type landing struct {
	key     key
	attempt int
	keep    bool // complete: others may still look for it
}

// A watch tells a follower that its leader has died.
type watch struct {
	id      string
	died    func() // called once
	strikes int    // owned by beat
}

func newElector(pool *pgxpool.Pool, owner string, forget func(key)) *elector {
	return &elector{pool: pool, owner: owner, forget: forget, waiting: make(chan *candidacy, maxElections), wake: make(chan struct{}, 1),
		led: map[key]struct{}{}, watched: map[*watch]struct{}{}}
}

// elect proposes to generate the answer under this id. After an error everybody is on his own.
func (el *elector) elect(ctx context.Context, k key, id, tenant string) verdict {
	if time.Now().UnixNano() < el.downTil.Load() {
		return verdict{err: errNoElection}
	}
	c := &candidacy{key: k, id: id, tenant: tenant, done: make(chan verdict, 1)}
	select {
	case el.waiting <- c:
	default:
		return verdict{err: errNoElection}
	}
	select {
	case v := <-c.done:
		return v
	case <-ctx.Done():
		return verdict{err: ctx.Err()}
	}
}

// run holds elections until ctx ends.
func (el *elector) run(ctx context.Context) {
	for {
		select {
		case first := <-el.waiting:
			el.round(ctx, first)
		case <-ctx.Done():
			return
		}
	}
}

func (el *elector) round(ctx context.Context, first *candidacy) {
	batch := []*candidacy{first}
	for more := true; more && len(batch) < electionsAtOnce; {
		select {
		case c := <-el.waiting:
			batch = append(batch, c)
		default:
			more = false
		}
	}
	ctx, cancel := context.WithTimeout(ctx, electWithin)
	defer cancel()
	verdicts, err := el.vote(ctx, batch)
	if err != nil {
		el.downTil.Store(time.Now().Add(electAgain).UnixNano())
	}
	for _, c := range batch {
		v, ok := verdicts[c.key]
		v.mine = v.mine && v.id == c.id
		switch {
		case err != nil:
			v = verdict{err: err}
		case !ok:
			v = verdict{err: errNoElection} // it ended between the two statements
		case v.mine:
			el.lead(c.key)
		}
		c.done <- v
	}
}

// vote inserts what nobody has, in the order of the keys so that two replicas cannot wait for each other. Who has the
// rest is a second question, which only they wait for.
func (el *elector) vote(ctx context.Context, batch []*candidacy) (map[key]verdict, error) {
	keys, ids, tenants := make([][]byte, len(batch)), make([]string, len(batch)), make([]string, len(batch))
	for i, c := range batch {
		keys[i], ids[i], tenants[i] = c.key[:], c.id, c.tenant
	}
	b := &pgx.Batch{}
	if now := time.Now(); now.Sub(time.Unix(0, el.seen.Load())) > beat {
		b.Queue(sqlSeen, el.owner)
		el.seen.Store(now.UnixNano())
	}
	verdicts := map[key]verdict{}
	b.Queue(`INSERT INTO forgewire.flights (key, id, tenant, owner) SELECT k, i, t, $4 FROM unnest($1::bytea[], $2::text[], $3::text[]) AS c(k, i, t)
		ORDER BY k ON CONFLICT (key) DO NOTHING RETURNING key, id`, keys, ids, tenants, el.owner).Query(func(rows pgx.Rows) error {
		var k []byte
		var id string
		_, err := pgx.ForEachRow(rows, []any{&k, &id}, func() error {
			verdicts[key(k)] = verdict{mine: true, id: id, attempt: 1}
			return nil
		})
		return err
	})
	if err := el.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("elect leaders: %w", err)
	}
	var lost [][]byte
	for _, c := range batch {
		if _, won := verdicts[c.key]; !won {
			lost = append(lost, c.key[:])
		}
	}
	if len(lost) == 0 {
		return verdicts, nil
	}
	return verdicts, el.winners(ctx, lost, verdicts)
}

// winners reads who has keys.
func (el *elector) winners(ctx context.Context, keys [][]byte, into map[key]verdict) error {
	rows, err := el.pool.Query(ctx, `SELECT key, id, attempt, purged, landed IS NOT NULL, coalesce(extract(epoch FROM clock_timestamp() - landed), 0)::float8
		FROM forgewire.flights WHERE key = ANY($1)`, keys)
	if err != nil {
		return fmt.Errorf("read who leads: %w", err)
	}
	var k []byte
	var v verdict
	var seconds float64
	if _, err = pgx.ForEachRow(rows, []any{&k, &v.id, &v.attempt, &v.purged, &v.landed, &seconds}, func() error {
		v.age = time.Duration(seconds * float64(time.Second))
		into[key(k)] = v
		return nil
	}); err != nil {
		return fmt.Errorf("read who leads: %w", err)
	}
	return nil
}

const sqlSeen = `INSERT INTO forgewire.flight_owners (owner, seen) VALUES ($1, clock_timestamp())
	ON CONFLICT (owner) DO UPDATE SET seen = excluded.seen`

// lead counts a flight that this replica leads from now on.
func (el *elector) lead(k key) {
	el.mu.Lock()
	defer el.mu.Unlock()
	el.led[k] = struct{}{}
	el.ring()
}

// land ends a flight that this replica led.
func (el *elector) land(k key, attempt int, keep bool) {
	el.mu.Lock()
	defer el.mu.Unlock()
	delete(el.led, k)
	if len(el.landings) < maxElections {
		el.landings = append(el.landings, landing{k, attempt, keep})
	}
	el.ring()
}

// ring wakes the heart. The caller holds mu.
func (el *elector) ring() {
	select {
	case el.wake <- struct{}{}:
	default:
	}
}

// watch calls died, once, when the leader of a flight has been silent for too long or the flight is gone. The
// returned function ends that.
func (el *elector) watch(id string, died func()) (stop func()) {
	w := &watch{id: id, died: died}
	el.mu.Lock()
	defer el.mu.Unlock()
	el.watched[w] = struct{}{}
	el.ring()
	return func() {
		el.mu.Lock()
		defer el.mu.Unlock()
		delete(el.watched, w)
	}
}

// takeOver makes this replica the leader in place of one that died.
func (el *elector) takeOver(ctx context.Context, k key, id, tenant string, attempt int) (won bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	tag, err := el.pool.Exec(ctx, `WITH me AS (`+sqlSeen+` RETURNING owner)
		INSERT INTO forgewire.flights AS f (key, id, owner, attempt, tenant) SELECT $2, $3, owner, $4::int + 1, $5 FROM me
		ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, attempt = f.attempt + 1
		WHERE f.id = excluded.id AND f.attempt = $4 AND f.landed IS NULL`, el.owner, k[:], id, attempt, tenant)
	if err != nil {
		return false, fmt.Errorf("replace a leader: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	el.lead(k)
	return true, nil
}
