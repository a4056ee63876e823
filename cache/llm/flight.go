package llm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A flight is one answer that is being generated: here, or on another replica, from which it is copied. Readers do
// not see which.
type flight struct {
	*tape
	req     *request // a copy of that of whoever asked first
	asked   int      // bytes of its body
	first   string   // the id that it was proposed with
	key     key      // of the election
	bid     *candidacy
	joins   bool // others may join
	stores  bool // its answer goes into the cache
	shares  bool // it is written to the log: for other replicas, and to be resumed
	started time.Time
	ctx     context.Context
	cancel  context.CancelCauseFunc // with why
	settled chan struct{}           // closed when rec is known
	settle  sync.Once               // closes settled
	purged  atomic.Bool             // since it began: its answer is not kept, and nobody joins it any more

	// Owned by the flight's goroutine, and fixed when settled is closed.
	leads    bool // the upstream was asked by this replica
	whole    bool // nothing of it was mended
	upstream *Upstream
	model    string // there
	firstAt  time.Time
	rec      *recording // nil if there was no answer
	stored   bool
	run      *Run // of whoever caused it, as far as the flight knows; nil unless it led

	accounts sync.Mutex
	asker    *Run // what he got; guarded by accounts, as is noted
	noted    bool
}

// newFlight makes a flight. bid is the election that was begun for it; nil for none yet.
func newFlight(life context.Context, req *request, joins bool, mode Mode, bid *candidacy) *flight {
	id := newID()
	if bid != nil {
		id = bid.id
	}
	own := *req // whose body goes when the upstream has it
	f := &flight{tape: newTape(id), req: &own, asked: len(req.body.raw), first: id, key: req.key, joins: joins, started: time.Now(), whole: true, settled: make(chan struct{}),
		stores: mode.cacheable(req), bid: bid}
	f.ctx, f.cancel = context.WithCancelCause(life)
	f.shares = f.stores || req.stream && mode != CacheOff && !req.controls.noStore
	if !joins {
		f.key = loneKey(id)
	}
	return f
}

// unload lets go of what was asked, once the upstream has it, but for what the run log keeps: the client for whom it was
// weighed may be long gone.
func (f *flight) unload() {
	text := f.req.body.raw
	f.req.body = node{}
	if f.req.logsBodies() {
		f.req.body.raw = bytes.Clone(text[:min(len(text), MaxLoggedBytes+1)])
	}
}

// loneKey is the key of an election that nobody else stands for.
func loneKey(id string) key { return sha256.Sum256([]byte(id)) }

const idPrefix = "fw_"

func newID() string {
	u := uuid.New()
	return idPrefix + hex.EncodeToString(u[:])
}

var (
	errDied     = errors.New("the leader of the flight has died")
	errShareOff = errors.New("the flight is not shared")
)

// landSlack is more than an answer is older than its landing.
const landSlack = time.Second

// flightSlack is how much longer a flight may take than its upstreams together, each of which has a timeout of its own:
// a bound for who waits for a leader elsewhere that makes no end.
const flightSlack = time.Minute

// wants says whether an answer of that age, which has landed elsewhere, would be a hit here.
func (s *Service) wants(req *request, age time.Duration) bool {
	return req.controls.fresh(age) && age < s.ttl(req.controls.class)
}

// fly runs a flight from the election to the end.
func (s *Service) fly(f *flight) {
	defer s.end(f)
	defer f.cancel(nil)
	timeout := flightSlack
	for _, r := range f.req.routes {
		timeout += r.upstream.Timeout
	}
	defer time.AfterFunc(timeout, func() { f.cancel(errSilent) }).Stop()
	if !f.shares {
		s.lead(f, nil)
		return
	}
	if f.bid == nil {
		f.bid = s.propose(f.req, f.key, f.first)
	}
	v := f.bid.outcome(f.ctx)
	if v.err == nil && (v.purged || v.landed && !s.wants(f.req, v.age+landSlack)) {
		// What is there is not wanted. The new answer can be resumed and purged, too.
		f.key = loneKey(f.first)
		f.bid = s.propose(f.req, f.key, f.first)
		v = f.bid.outcome(f.ctx)
	}
	switch {
	case v.err != nil:
		s.lead(f, nil)
	case v.lease != nil:
		s.lead(f, v.lease)
	case s.hasFailed(v.id):
		s.lead(f, nil) // the database has not heard of it yet
	default:
		f.elsewhere(v.id)
		s.follow(f, v.id)
	}
}

// hasFailed says whether a flight of this replica has ended with a failure, which is told to nobody who asks later.
func (s *Service) hasFailed(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.byID[id]
	return f != nil && f.failed()
}

// follow copies a flight that another replica leads, and takes the lead if that one dies.
func (s *Service) follow(f *flight, id string) {
	follower, err := s.cfg.Log.Follow(channelOf(id))
	if err != nil {
		s.lead(f, nil)
		return
	}
	defer follower.Close()
	c := &copier{tape: f.tape}
	for {
		err := s.copy(f.ctx, id, follower, c)
		switch {
		case err == nil:
			s.settle(f)
			return
		case f.ctx.Err() != nil:
			f.finish(flightEnd{Failure: failureOf(context.Cause(f.ctx))})
			return
		case errors.Is(err, errDied):
			won, err := s.succeed(f, id, follower, c)
			if err != nil {
				s.lead(f, nil)
				return
			}
			if won {
				return
			}
		default:
			s.lead(f, nil) // what it has read is compared with what comes
			return
		}
	}
}

// copy reads a channel until the answer ends, or its leader has died.
func (s *Service) copy(ctx context.Context, id string, follower Follower, c *copier) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.elector.watch(id, func() { cancel(errDied) })()
	for {
		messages, err := follower.Next(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errDied) {
				return errDied
			}
			return err
		}
		if err := c.take(messages...); err != nil {
			return err
		}
		if v := c.tape.now(0); v.end != nil {
			return nil
		}
	}
}

// succeed tries to become the leader in place of the one that died. It returns true when the flight has ended under
// it. The claim that it writes first is where everybody stops to listen to the old leader.
func (s *Service) succeed(f *flight, id string, follower Follower, c *copier) (bool, error) {
	attempt := max(c.attempt, 1)
	l, err := s.elector.takeOver(f.ctx, s.candidate(f.req, f.key, id), attempt)
	if err != nil || l == nil {
		return false, err
	}
	attempt++
	if err := s.cfg.Log.Append(f.ctx, channelOf(id), c.claim(attempt)); err != nil {
		s.elector.land(l, false)
		return false, err
	}
	for c.attempt < attempt {
		messages, err := follower.Next(f.ctx)
		if err != nil {
			s.elector.land(l, false)
			return false, err
		}
		if err := c.take(messages...); err != nil {
			s.elector.land(l, false)
			return false, err
		}
	}
	if v := f.now(0); v.end != nil { // it had ended just before
		s.elector.land(l, false)
		s.settle(f)
		return true, nil
	}
	s.lead(f, l)
	return true, nil
}
