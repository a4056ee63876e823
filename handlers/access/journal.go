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
	queue     chan db.Run

	written, dropped atomic.Uint64

	// Owned by run.
	complained time.Time // when a drop was last logged
	told       uint64    // how many it told of
}

func newJournal(pool db.Querier, logger *slog.Logger, retention time.Duration) *journal {
	return &journal{pool: pool, logger: logger, retention: retention, queue: make(chan db.Run, maxQueued)}
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
	select {
	case j.queue <- row:
	default:
		j.dropped.Add(1)
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

// batch waits for a run and gathers what else comes in a moment. It returns none when ctx ends before one came.
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
	for len(batch) < maxBatch {
		select {
		case r := <-j.queue:
			batch = append(batch, r)
			continue
		case <-enough.C:
		case <-ctx.Done():
		}
		break
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
		j.logger.Error("runs were dropped that the database does not take", "runs", len(batch), "code", pg.Code, "constraint", pg.ConstraintName)
		return nil
	}
	if err == nil {
		j.written.Add(uint64(len(batch)))
	}
	return err
}

// flush writes what is left when the replica stops.
func (j *journal) flush(work context.Context, batch []db.Run) error {
	for {
		for len(batch) < maxBatch {
			select {
			case r := <-j.queue:
				batch = append(batch, r)
				continue
			default:
			}
			break
		}
		if len(batch) == 0 {
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

// CleanUp drops the days of runs that are past the retention. It is for db.Cleanup.
func (g *Gate) CleanUp(ctx context.Context, tx pgx.Tx) error {
	return db.RetireRuns(ctx, tx, time.Now().Add(-g.journal.retention))
}

// Stats counts runs since the start.
type Stats struct {
	Written uint64
	Dropped uint64 // because the queue was full, or the database away when the replica stopped
	Waiting int    // in the queue now
}

// Stats counts runs.
func (g *Gate) Stats() Stats {
	j := g.journal
	return Stats{Written: j.written.Load(), Dropped: j.dropped.Load(), Waiting: len(j.queue)}
}
