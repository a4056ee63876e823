package llm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Times of the elections. A replica that leads or follows says every beat that it lives; one that was silent for
// ownerDead, as the database sees it, in two looks, is replaced: within about a second.
const (
	beat       = 200 * time.Millisecond
	ownerDead  = 800 * time.Millisecond
	landedFor  = 15 * time.Second // longer than a request is between its look into the cache and its election
	sweepEvery = 5 * time.Second
	beatWithin = 2 * time.Second

	// A second call of the model costs more than a wait: a database that has answered is waited for. One that has not,
	// just before, is not trusted so far.
	electWithin    = 2 * time.Second        // then the request goes alone
	electImpatient = 250 * time.Millisecond // the same, after a failed election
	electAgain     = time.Second            // after a failed election, how long all go alone

	maxElections    = 4096 // that wait; one more goes alone
	electionsAtOnce = 256
)

var errNoElection = errors.New("no election is possible now")

// elector decides through Postgres which replica generates an answer: whoever inserts the key. Elections that
// arrive while one is under way share the next round trip. A replica without flights runs no query.
type elector struct {
	pool    *pgxpool.Pool
	logger  *slog.Logger
	owner   string
	waiting chan *candidacy
	downTil atomic.Int64 // unix ns: elections fail at once until then
	seen    atomic.Int64 // unix ns: when the database last heard that this replica lives
	wake    chan struct{}
	forget  func(key) // takes an answer out of the cache that was purged before it was stored
	counts  electionCounts
	looked  time.Time // when the last look succeeded; owned by the heart

	mu       sync.Mutex
	led      map[key]*lease // guarded by mu, like all below
	watched  map[*watch]struct{}
	noticed  map[string]int // answers that clients read the channels of, and how often their leaders were told
	landings []landing
	sweepBy  time.Time // rows of ours may need sweeping until then
	hurry    bool      // the replica stops: no landing waits
	ticking  bool      // the heart beats: it need not be woken for what can wait for a beat
}

type candidacy struct {
	key    key
	cached key // where the answer is kept
	id     string
	tenant string       // whose, hashed
	done   chan verdict // buffered
	over   atomic.Bool  // set by both who decides and who withdraws: the second one gives back what was won
}

// A verdict says who generates an answer.
type verdict struct {
	err    error
	lease  *lease // not nil: this replica
	id     string // the winner's
	landed bool
	age    time.Duration // since it landed
	purged bool          // nobody may join it any more

	attempt int
}

// A lease is the lead of a flight.
type lease struct {
	key      key
	cached   key // where the answer is kept
	attempt  int
	followed chan struct{} // closed when another replica reads along; by the elector
}

func (l *lease) isFollowed() bool {
	select {
	case <-l.followed:
		return true
	default:
		return false
	}
}

// A watch tells a follower that its leader has died.
type watch struct {
	id      string
	died    func()    // called once
	marked  int       // how often the leader was told that somebody follows; owned by the heart, like all below
	strikes int       // in how many looks the leader was found dead, one after the other
	since   time.Time // of the first of them
}

func newElector(pool *pgxpool.Pool, owner string, logger *slog.Logger, forget func(key)) *elector {
	return &elector{pool: pool, owner: owner, logger: logger, forget: forget, waiting: make(chan *candidacy, maxElections), wake: make(chan struct{}, 1),
		led: map[key]*lease{}, watched: map[*watch]struct{}{}, noticed: map[string]int{}}
}

// candidate is who may generate the answer to a request, under an id.
func (s *Service) candidate(req *request, k key, id string) *candidacy {
	return &candidacy{key: k, cached: req.key, id: id, tenant: tenantTag(req.caller.Tenant), done: make(chan verdict, 1)}
}

func (s *Service) propose(req *request, k key, id string) *candidacy {
	return s.elector.propose(s.candidate(req, k, id))
}

// propose stands for an election. It returns nil if none is possible: then everybody is on his own.
func (el *elector) propose(c *candidacy) *candidacy {
	if time.Now().UnixNano() < el.downTil.Load() {
		return nil
	}
	select {
	case el.waiting <- c:
		return c
	default:
		return nil
	}
}

// outcome waits for the verdict. After an error everybody is on his own.
func (c *candidacy) outcome(ctx context.Context) verdict {
	if c == nil {
		return verdict{err: errNoElection}
	}
	select {
	case v := <-c.done:
		return v
	case <-ctx.Done():
		return verdict{err: ctx.Err()}
	}
}

// withdraw is for a candidate who has the answer from elsewhere.
func (el *elector) withdraw(c *candidacy) {
	if c.over.Swap(true) {
		el.giveBack(c)
	}
}

// giveBack ends the lead that nobody wants, with the next beat.
func (el *elector) giveBack(c *candidacy) {
	v := <-c.done
	if v.lease == nil {
		return
	}
	el.mu.Lock()
	defer el.mu.Unlock()
	if el.led[c.key] == v.lease {
		delete(el.led, c.key)
	}
	el.queue(landing{lease: v.lease, how: endGone}, true)
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

// round decides about first and all that waits behind it.
func (el *elector) round(ctx context.Context, first *candidacy) {
	if time.Now().UnixNano() < el.downTil.Load() {
		first.done <- verdict{err: errNoElection}
		return
	}
	batch, keys := []*candidacy{first}, map[key]struct{}{first.key: {}}
	var again *candidacy // a statement cannot name a key twice
	for again == nil && len(batch) < electionsAtOnce {
		var c *candidacy
		select {
		case c = <-el.waiting:
		default:
		}
		if c == nil {
			break
		}
		if _, twice := keys[c.key]; twice {
			again = c
			break
		}
		keys[c.key] = struct{}{}
		batch = append(batch, c)
	}
	el.decide(ctx, batch)
	if again != nil {
		el.round(ctx, again)
	}
}

func (el *elector) decide(ctx context.Context, batch []*candidacy) {
	within := electWithin
	if el.counts.failing.Load() {
		within = electImpatient
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	verdicts, err := el.vote(ctx, batch)
	if err != nil {
		el.downTil.Store(time.Now().Add(electAgain).UnixNano())
	}
	el.counts.voted(el.logger, len(batch), err)
	for _, c := range batch {
		v, ok := verdicts[c.key]
		switch {
		case err != nil:
			v = verdict{err: err}
		case !ok:
			v = verdict{err: errNoElection} // the statement returns every key: not reached
		case v.id == c.id:
			v.lease = el.lead(c, v.attempt)
		}
		c.done <- v
		if c.over.Swap(true) {
			el.giveBack(c)
		}
	}
}

// vote inserts what nobody has, and says of the rest who has it, who learns by the same statement that he is followed.
// The order is that of the keys, so that two replicas cannot wait for each other.
func (el *elector) vote(ctx context.Context, batch []*candidacy) (map[key]verdict, error) {
	keys, ids, tenants := make([][]byte, len(batch)), make([]string, len(batch)), make([]string, len(batch))
	for i, c := range batch {
		keys[i], ids[i], tenants[i] = c.key[:], c.id, c.tenant
	}
	sql := sqlVote
	if now := time.Now(); now.Sub(time.Unix(0, el.seen.Load())) > beat {
		sql = sqlSeenAndVote
		el.seen.Store(now.UnixNano())
	}
	rows, err := el.pool.Query(ctx, sql, el.owner, keys, ids, tenants) // a batch is a pipeline, which takes 60 µs more
	if err != nil {
		return nil, fmt.Errorf("elect leaders: %w", err)
	}
	verdicts := make(map[key]verdict, len(batch))
	var k []byte
	var v verdict
	var seconds float64
	_, err = pgx.ForEachRow(rows, []any{&k, &v.id, &v.attempt, &v.purged, &v.landed, &seconds}, func() error {
		v.age = time.Duration(seconds * float64(time.Second))
		verdicts[key(k)] = v
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("elect leaders: %w", err)
	}
	return verdicts, nil
}

const (
	sqlSeen = `INSERT INTO forgewire.flight_owners (owner, seen) VALUES ($1, clock_timestamp())
	ON CONFLICT (owner) DO UPDATE SET seen = excluded.seen`
	sqlVote = `INSERT INTO forgewire.flights AS f (key, id, tenant, owner) SELECT k, i, t, $1 FROM unnest($2::bytea[], $3::text[], $4::text[]) AS c(k, i, t) ORDER BY k
	ON CONFLICT (key) DO UPDATE SET followed = true
	RETURNING key, id, attempt, purged, landed IS NOT NULL, coalesce(extract(epoch FROM clock_timestamp() - landed), 0)::float8`
	sqlSeenAndVote = `WITH me AS (` + sqlSeen + `) ` + sqlVote
)

// lead counts a flight that this replica leads from now on.
func (el *elector) lead(c *candidacy, attempt int) *lease {
	l := &lease{key: c.key, cached: c.cached, attempt: attempt, followed: make(chan struct{})}
	el.mu.Lock()
	defer el.mu.Unlock()
	el.led[l.key] = l
	el.stir()
	return l
}

// stir sees to it that the heart beats. The caller holds mu.
func (el *elector) stir() {
	if !el.ticking {
		el.ring()
	}
}

// ring wakes the heart at once. The caller holds mu.
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
	el.stir()
	return func() {
		el.mu.Lock()
		defer el.mu.Unlock()
		delete(el.watched, w)
	}
}

// takeOver makes this replica the leader in place of one that died, if nobody else has and it still is silent.
func (el *elector) takeOver(ctx context.Context, c *candidacy, attempt int) (*lease, error) {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	tag, err := el.pool.Exec(ctx, `WITH me AS (`+sqlSeen+` RETURNING owner)
		INSERT INTO forgewire.flights AS f (key, id, owner, attempt, tenant, followed) SELECT $2, $3, owner, $4::int + 1, $5, true FROM me
		ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, attempt = f.attempt + 1, followed = true
		WHERE f.id = excluded.id AND f.attempt = $4 AND f.landed IS NULL AND NOT EXISTS (
			SELECT FROM forgewire.flight_owners o WHERE o.owner = f.owner AND o.owner <> $1 AND o.seen > clock_timestamp() - make_interval(secs => $6))`,
		el.owner, c.key[:], c.id, attempt, c.tenant, ownerDead.Seconds())
	if err != nil {
		return nil, fmt.Errorf("replace a leader: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, nil
	}
	el.counts.tookOver(el.logger, c.id)
	l := el.lead(c, attempt+1)
	el.follow(map[key]bool{c.key: true})
	return l, nil
}
