package access

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"forgewire/cache/llm"
	"forgewire/db"
)

const (
	maxQueued     = 8192 // runs that wait to be written: a few MB
	maxBatch      = 500
	maxBodies     = 32 << 20               // bytes of bodies that wait; more are left out
	gather        = 200 * time.Millisecond // how long the first run of a batch waits for others
	insertTimeout = 5 * time.Second
	minBackoff    = 250 * time.Millisecond
	maxBackoff    = 5 * time.Second
	complainEvery = time.Minute
)

// journal writes the run log. It is safe for concurrent use.
type journal struct {
	pool      db.Querier
	logger    *slog.Logger
	retention time.Duration
	bodies    time.Duration // how long they are kept; 0: none
	queue     chan db.Run
	full      chan struct{} // a batch is together before its time

	written, dropped atomic.Uint64
	held             atomic.Int64  // bytes of bodies that wait
	left             atomic.Uint64 // bodies that were left out

	// Owned by run.
	complained time.Time // when a drop was last logged
	told       uint64    // how many it told of
}

func newJournal(pool db.Querier, logger *slog.Logger, retention, bodies time.Duration) *journal {
	return &journal{pool: pool, logger: logger, retention: retention, bodies: bodies, queue: make(chan db.Run, maxQueued), full: make(chan struct{}, 1)}
}

// record puts a run into the queue, or drops and counts it if that is full.
func (j *journal) record(r *llm.Run) {
	row := db.Run{
		ID: "run_" + random(15), Started: r.Started, Tenant: r.Tenant, AnswerID: r.ID, KeyID: r.KeyID,
		Endpoint: r.Endpoint, Model: r.Model, Upstream: r.Upstream, Status: int32(r.Status), Cache: string(r.Cache),
		RequestHash: r.RequestHash, PromptTokens: r.PromptTokens, CompletionTokens: r.CompletionTokens,
		CostMicros: cost(r), SavedMicros: r.SavedMicros, Duration: r.Duration, Error: r.Error,
	}
	if r.FirstToken > 0 {
		row.FirstToken = &r.FirstToken
	}
	row.Bodies = j.hold(r.Bodies)
	select {
	case j.queue <- row:
	default:
		j.dropped.Add(1)
		j.release(row)
	}
	if len(j.queue) >= maxBatch {
		signal(j.full)
	}
}

// hold takes bodies in, if they are kept and there is room.
func (j *journal) hold(b *llm.Bodies) *db.RunBodies {
	if b == nil || j.bodies == 0 {
		return nil
	}
	size := int64(len(b.Request) + len(b.Answer))
	if j.held.Add(size) > maxBodies {
		j.held.Add(-size)
		j.left.Add(1)
		return nil
	}
	return &db.RunBodies{Request: b.Request, Answer: b.Answer, Cut: b.Cut}
}

// release lets go of the bodies of runs that are written or dropped.
func (j *journal) release(runs ...db.Run) {
	for _, r := range runs {
		if r.Bodies != nil {
			j.held.Add(-int64(len(r.Bodies.Request) + len(r.Bodies.Answer)))
		}
	}
}

// run writes until ctx ends, and then what is left, as long as work lasts.
func (j *journal) run(ctx, work context.Context) error {
	for ctx.Err() == nil {
		batch := j.batch(ctx)
		if len(batch) == 0 {
			break
		}
		if !j.persist(ctx, work, batch) {
			return j.flush(work, batch)
		}
		j.complain()
	}
	return j.flush(work, nil)
}

// batch waits for a run, and a moment for others, without waking up for each. It returns none when ctx ends before one
// came.
func (j *journal) batch(ctx context.Context) []db.Run {
	var batch []db.Run
	select {
	case r := <-j.queue:
		batch = append(batch, r)
	case <-ctx.Done():
		return nil
	}
	enough := time.NewTimer(gather)
	defer enough.Stop()
	select {
	case <-j.full:
	case <-enough.C:
	case <-ctx.Done():
	}
	return j.more(batch)
}

// more adds what is in the queue.
func (j *journal) more(batch []db.Run) []db.Run {
	for len(batch) < maxBatch {
		select {
		case r := <-j.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// persist writes a batch, trying until it is done or ctx ends; the queue is what gives way meanwhile.
func (j *journal) persist(ctx, work context.Context, batch []db.Run) bool {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := j.insert(work, batch)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		j.logger.Warn("runs could not be written, trying again", "runs", len(batch), "error", err)
		j.complain()
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return false
		}
	}
}

// insert writes a batch. One that the database will never take is dropped, so that it does not block the rest.
func (j *journal) insert(ctx context.Context, batch []db.Run) error {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	err := db.InsertRuns(ctx, j.pool, batch)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "23") { // wrong data, broken constraint
		j.dropped.Add(uint64(len(batch)))
		j.release(batch...)
		j.logger.Error("runs were dropped that the database does not take", "runs", len(batch), "code", pg.Code, "constraint", pg.ConstraintName)
		return nil
	}
	if err == nil {
		j.written.Add(uint64(len(batch)))
		j.release(batch...)
	}
	return err
}

// flush writes what is left when the replica stops.
func (j *journal) flush(work context.Context, batch []db.Run) error {
	for {
		if batch = j.more(batch); len(batch) == 0 {
			return nil
		}
		if err := j.insert(work, batch); err != nil {
			lost := len(batch) + len(j.queue)
			j.dropped.Add(uint64(lost))
			j.logger.Error("the last runs are lost", "runs", lost, "error", err)
			return nil // the replica stops all the same
		}
		batch = nil
	}
}

// complain logs now and then how many runs were dropped.
func (j *journal) complain() {
	dropped := j.dropped.Load()
	if dropped == j.told || time.Since(j.complained) < complainEvery {
		return
	}
	j.logger.Warn("runs were dropped: the database takes them slower than they come", "runs", dropped-j.told)
	j.told, j.complained = dropped, time.Now()
}

// CleanUp drops the days of runs that are past the retention, and their bodies before that. It is for db.Cleanup.
func (g *Gate) CleanUp(ctx context.Context, tx pgx.Tx) error {
	now := time.Now()
	return db.RetireRuns(ctx, tx, now.Add(-g.journal.retention), now.Add(-g.journal.bodies))
}

// Stats counts runs since the start.
type Stats struct {
	Written uint64
	Dropped uint64 // because the queue was full, or the database away when the replica stopped
	Bare    uint64 // without the bodies that were to be kept: too many of them waited
	Waiting int    // in the queue now
}

// Stats counts runs.
func (g *Gate) Stats() Stats {
	j := g.journal
	return Stats{Written: j.written.Load(), Dropped: j.dropped.Load(), Bare: j.left.Load(), Waiting: len(j.queue)}
}
