package realtime

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Timing of presence. A replica that dies takes its members with it when its lease ends.
const (
	leaseTime       = 30 * time.Second
	leaseRenewal    = 10 * time.Second
	presenceRetry   = time.Second // after an error
	presenceTimeout = 5 * time.Second
	maxMemberWrites = 1000 // rows of one statement
)

// A place is one client's on one channel.
type place struct{ channel, client string }

// A seat says what is known of a place.
type seat struct {
	info    *protocol.ClientInfo // nil: the client left
	written bool                 // the table may have its row
	dirty   bool                 // the row is to be written or deleted
}

// presence keeps this replica's members in the database, under a lease. It has one writer, which takes
// whatever changed while its last batch was under way; there is no timer but that of the lease and of leaves
// that are held back, and a replica without clients runs no query.
type presence struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	id     string
	name   string
	busy   func() bool // there are clients: the lease is needed
	// announces says whether a channel's joins and leaves are told.
	announces func(channel string) bool
	wake      chan struct{}
	done      chan struct{} // closed when run has returned
	leased    atomic.Bool   // this replica has a row in the database, as far as it knows

	mu      sync.Mutex
	seats   map[place]*seat // guarded by mu, like all below
	dirty   []place
	news    []news // joins and leaves to be told of
	doorman doorman
	waiting []chan struct{} // closed when everything that was dirty before is written
	writing bool            // a batch is under way
	recheck bool            // compare the table with seats now

	renewAt time.Time // owned by run, like all below
	retryAt time.Time
}

func newPresence(pool *pgxpool.Pool, logger *slog.Logger, id, name string, busy func() bool, announces func(string) bool) *presence {
	return &presence{pool: pool, logger: logger, id: id, name: name, busy: busy, announces: announces, wake: make(chan struct{}, 1), done: make(chan struct{}),
		seats: map[place]*seat{}, doorman: doorman{pending: map[place]*absence{}}}
}

// ring makes the writer look for work.
func (p *presence) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// connected is called for each new client: the first one needs a lease.
func (p *presence) connected() {
	if p != nil && !p.leased.Load() {
		p.ring()
	}
}

// check makes the writer compare the table with what it knows, for the database may have lost it.
func (p *presence) check() {
	if !p.leased.Load() {
		return
	}
	p.mu.Lock()
	p.recheck = true
	p.mu.Unlock()
	p.ring()
}

func (p *presence) join(channel string, info *protocol.ClientInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := place{channel, info.Client}
	s := p.seats[at]
	if s == nil {
		s = &seat{}
		p.seats[at] = s
	}
	s.info = info
	p.touch(at, s)
	if p.announces(channel) {
		p.tell(p.doorman.join(at, info)...)
	}
	p.ring()
}

func (p *presence) leave(channel string, info *protocol.ClientInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := place{channel, info.Client}
	s := p.seats[at]
	if s == nil || s.info == nil {
		return
	}
	s.info = nil
	p.touch(at, s)
	if p.announces(channel) {
		p.doorman.leave(at, info, time.Now())
	}
	p.ring()
}

// touch notes that a place is to be written. The caller holds mu.
func (p *presence) touch(at place, s *seat) {
	if !s.dirty {
		s.dirty = true
		p.dirty = append(p.dirty, at)
	}
}

// tell queues joins and leaves. Where the database is away for so long that the queue is full, the newest are
// left out: presence itself stays right. The caller holds mu.
func (p *presence) tell(n ...news) {
	if room := maxNews - len(p.news); len(n) > room {
		n = n[:max(0, room)]
	}
	p.news = append(p.news, n...)
}

// settled waits until what changed on this replica before the call is in the table, so that a client that
// asks who is there finds itself.
func (p *presence) settled(ctx context.Context) error {
	p.mu.Lock()
	if len(p.dirty) == 0 && !p.writing {
		p.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	p.waiting = append(p.waiting, done)
	p.mu.Unlock()
	p.ring()
	select {
	case <-done:
		return nil
	case <-p.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run writes until ctx ends, and then gives up the lease and all that it holds.
func (p *presence) run(ctx context.Context) error {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		if wait := p.work(ctx); wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
			p.quit(context.WithoutCancel(ctx)) // ctx has ended, and others should not wait for the lease to
			return nil
		}
	}
}

// work does what is due and returns how long until something will be; 0 for never.
func (p *presence) work(ctx context.Context) time.Duration {
	now := time.Now()
	if wait := p.retryAt.Sub(now); wait > 0 {
		return wait
	}
	batch := p.take(now)
	renew := batch.recheck || !now.Before(p.renewAt)
	var err error
	switch {
	case batch.empty() && !p.busy():
		if p.leased.Load() && renew {
			err = p.release(ctx)
		}
	case batch.empty() && !renew:
	default:
		err = p.write(ctx, batch, renew)
	}
	p.finished(batch)
	if err != nil {
		if ctx.Err() == nil {
			p.logger.Warn("presence could not be written, trying again in a second", "error", err)
		}
		p.retryAt = time.Now().Add(presenceRetry)
		return presenceRetry
	}
	return p.next(time.Now())
}

// finished lets go of whoever waits for the batch, also after an error: who asks the database next will see it
// for itself.
func (p *presence) finished(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = false
	for _, w := range b.waiting {
		close(w)
	}
}

// next says when there will be something to do.
func (p *presence) next(now time.Time) (wait time.Duration) {
	if p.leased.Load() {
		wait = max(p.renewAt.Sub(now), time.Millisecond)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.doorman.next(); ok {
		if d := max(at.Sub(now), time.Millisecond); wait == 0 || d < wait {
			wait = d
		}
	}
	return wait
}

// A batch is what one look of the writer takes.
type batch struct {
	places  []place
	news    []news
	waiting []chan struct{}
	recheck bool
}

func (b *batch) empty() bool { return len(b.places) == 0 && len(b.news) == 0 }

func (p *presence) take(now time.Time) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(p.doorman.due(now)...)
	b := &batch{places: p.dirty, news: p.news, waiting: p.waiting, recheck: p.recheck}
	p.dirty, p.news, p.waiting, p.recheck, p.writing = nil, nil, nil, false, true
	return b
}
