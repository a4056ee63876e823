package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// QueueTopic is what an insert is announced under, so that every replica's Queue is woken: see Queue.Wake.
const QueueTopic = "queue"

const (
	queuePoll    = time.Second      // while something waits
	queueRescue  = time.Minute      // then a job of a replica that died is done again (later, if its kind may take longer)
	queueStop    = 20 * time.Second // for jobs to end, once they were told
	queueRetry   = time.Second
	queueLook    = 5 * time.Second
	queueSoft    = time.Second // how long jobs are not told that the replica stops
	queueKeeps   = time.Minute // jobs that were done
	queueTimeout = 20 * time.Second
)

// Queue does jobs in the background, on any replica, with river. A river client polls, elects a leader and
// tidies up, so there is one only while something is queued. It is one for all kinds of jobs: its leader judges
// the jobs of every kind, and throws away those that it does not know.
type Queue struct {
	pool    *pgxpool.Pool
	logger  *slog.Logger
	woken   chan struct{} // capacity 1
	workers *river.Workers
	queues  map[string]river.QueueConfig
	insert  *river.Client[pgx.Tx]
	counted string // the queue whose jobs are counted
	load    atomic.Pointer[Load]
}

// Load is what lies in a queue, of all replicas.
type Load struct {
	Waiting int64 // also those that wait for a time of their own
	Running int64
	Oldest  time.Duration // since the oldest of both was queued; 0: there is none
}

// NewQueue makes a queue, for which AddWorker is called before Run.
func NewQueue(pool *pgxpool.Pool, logger *slog.Logger) (*Queue, error) {
	q := &Queue{pool: pool, logger: slog.New(warnings{logger.Handler()}), woken: make(chan struct{}, 1),
		workers: river.NewWorkers(), queues: map[string]river.QueueConfig{}}
	var err error
	if q.insert, err = river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: Schema, Logger: q.logger}); err != nil {
		return nil, fmt.Errorf("make the queue: %w", err)
	}
	return q, nil
}

// AddWorker says who does the jobs of a kind, which lie in the queue of that name, and how many at once.
func AddWorker[T river.JobArgs](q *Queue, name string, atOnce int, w river.Worker[T]) error {
	if err := river.AddWorkerSafely(q.workers, w); err != nil {
		return fmt.Errorf("add the worker of %s: %w", name, err)
	}
	q.queues[name] = river.QueueConfig{MaxWorkers: atOnce}
	return nil
}

// Count says which queue's jobs are counted with each look, before Run: one that never has very many.
func (q *Queue) Count(name string) { q.counted = name }

// Load is what was counted with the last look. Nobody looks for its sake: where nothing is queued, nor was announced since,
// that is how it still is. It is not known before the first look, after one that failed, and when Run has ended.
func (q *Queue) Load() (l Load, known bool) {
	if p := q.load.Load(); p != nil {
		return *p, true
	}
	return l, false
}

// Insert queues jobs in the caller's transaction. Whoever does so sees to it that the replicas are woken when it
// commits: with forgewire.announce, or in his own way.
func (q *Queue) Insert(ctx context.Context, tx pgx.Tx, jobs []river.InsertManyParams) error {
	if _, err := q.insert.InsertManyFastTx(ctx, tx, jobs); err != nil {
		return fmt.Errorf("queue jobs: %w", err)
	}
	return nil
}

// Wake says that something may be queued. It does not block.
func (q *Queue) Wake() {
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

// Run does jobs whenever there are some, until ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	if len(q.queues) == 0 {
		return nil
	}
	defer q.load.Store(nil)
	for {
		select {
		case <-q.woken:
		case <-ctx.Done():
			return nil
		}
		for {
			err := q.session(ctx)
			if ctx.Err() != nil {
				return nil // the replica stops, and what is queued stays
			}
			if err == nil {
				break
			}
			q.logger.WarnContext(ctx, "the queue failed, trying again", "error", err)
			if !pause(ctx, queueRetry) {
				return nil
			}
		}
	}
}

// session works until nothing is queued.
func (q *Queue) session(ctx context.Context) error {
	if waiting, err := q.waiting(ctx); err != nil || !waiting {
		return err
	}
	c, err := river.NewClient(riverpgxv5.New(q.pool), &river.Config{
		Schema: Schema, Logger: q.logger, Workers: q.workers, Queues: q.queues,
		PollOnly:                    true, // its LISTEN would be swallowed by a pooler in transaction mode
		FetchPollInterval:           queuePoll,
		JobTimeout:                  queueTimeout,
		RescueStuckJobsAfter:        queueRescue,
		CompletedJobRetentionPeriod: queueKeeps,
		SoftStopTimeout:             queueSoft,
	})
	if err != nil {
		return fmt.Errorf("make the queue's client: %w", err)
	}
	if err = c.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start the queue's client: %w", err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueStop)
		defer cancel()
		if err := c.Stop(stop); err != nil && !errors.Is(err, context.Canceled) {
			q.logger.WarnContext(ctx, "the queue did not stop in time", "error", err)
		}
	}()
	for pause(ctx, 2*queuePoll) {
		select { // what was inserted before this look needs no other
		case <-q.woken:
		default:
		}
		if waiting, err := q.waiting(ctx); err != nil || !waiting {
			return err
		}
	}
	return ctx.Err()
}

const live = `state IN ('available', 'pending', 'retryable', 'running', 'scheduled')`

// waiting says whether something of ours is queued, now or for later, and counts.
func (q *Queue) waiting(ctx context.Context) (waiting bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queueLook)
	defer cancel()
	names := make([]string, 0, len(q.queues))
	for name := range q.queues {
		names = append(names, name)
	}
	slices.Sort(names)
	var l Load
	err = q.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM forgewire.river_job WHERE `+live+` AND queue = ANY ($1)), count(*) FILTER (WHERE state <> 'running'),
			count(*) FILTER (WHERE state = 'running'), coalesce(greatest(now() - min(created_at), '0'), '0')
		FROM forgewire.river_job WHERE `+live+` AND queue = $2`, names, q.counted).Scan(&waiting, &l.Waiting, &l.Running, &l.Oldest)
	if err != nil {
		q.load.Store(nil)
		return false, fmt.Errorf("look into the queue: %w", err)
	}
	q.load.Store(&l)
	return waiting, nil
}

// pause waits, and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// warnings lets pass what is a warning or worse: river tells of each start and stop.
type warnings struct{ slog.Handler }

// Enabled is slog's.
func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

// WithAttrs is slog's.
func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }

// WithGroup is slog's.
func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }
