package resources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"forgewire/cache/llm"
	"forgewire/db"
)

// EvaluationNamespace is that of the channels on which evaluations tell of their progress: "$evaluations:" and the
// tenant.
const EvaluationNamespace = "evaluations"

const (
	evaluationQueue = "evaluations"
	workersAtOnce   = 2                                               // evaluations of one replica
	casesAtOnce     = 8                                               // of one evaluation
	batchCases      = 32                                              // whose results are stored together
	shift           = 20 * time.Second                                // then no case is begun, and the job goes back into the queue, so that evaluations take turns
	asksOfCase      = 2                                               // of the model, and of the judge
	scoreAndStore   = 30 * time.Second                                // more than it takes for the last cases
	workTimeout     = shift + asksOfCase*modelTimeout + scoreAndStore // then a worker counts as dead
	waitLater       = 10 * time.Second                                // while the model cannot answer
	triesOfCase     = 5                                               // of a case that the model fails at while it answers others
	retryMost       = time.Minute                                     // after errors, and after a worker's death
	stepAside       = 10 * time.Second                                // for whoever goes on with the same evaluation
	givesUp         = 24 * time.Hour                                  // without a result
	maxOutput       = 64 << 10                                        // bytes that are kept of an answer
	manyAttempts    = 10_000                                          // never reached: time is what ends the attempts
)

// job names an evaluation that has cases without results.
type job struct {
	Tenant     string `json:"tenant"`
	Evaluation string `json:"evaluation"`
}

// Kind names the job to river.
func (job) Kind() string { return "evaluation" }

// evaluator is the worker of evaluations. All that it knows between two batches is in the database: the cases up to
// `done` have their results. So whoever takes over a dead worker's evaluation goes on there.
type evaluator struct {
	river.WorkerDefaults[job]
	s *Service
}

// Timeout is how long river lets the job run, and when it takes the worker for dead.
func (e *evaluator) Timeout(*river.Job[job]) time.Duration { return workTimeout }

// NextRetry waits longer with each attempt, up to a minute. River's own wait grows with the fourth power of all attempts
// that an evaluation ever had: the tenth time that a worker dies or the database is away would cost hours.
func (e *evaluator) NextRetry(j *river.Job[job]) time.Time {
	return time.Now().Add(min(time.Duration(j.Attempt)*waitLater, retryMost))
}

// Work does an evaluation's next cases.
func (e *evaluator) Work(ctx context.Context, j *river.Job[job]) error {
	until := time.Now().Add(shift)
	for time.Now().Before(until) {
		wait, over, err := e.step(ctx, j.Args, until)
		switch {
		case ctx.Err() != nil: // the replica stops: another one goes on
			return river.JobSnooze(0)
		case err != nil:
			e.s.logger.WarnContext(ctx, "an evaluation could not go on, trying again", "evaluation", j.Args.Evaluation, "error", err)
			return err
		case over:
			return nil
		case wait > 0:
			return river.JobSnooze(wait)
		}
	}
	return river.JobSnooze(0)
}

// step does one batch. It says whether the evaluation is over, or how long to wait with it.
func (e *evaluator) step(ctx context.Context, j job, until time.Time) (wait time.Duration, over bool, err error) {
	ev, err := db.ReadEvaluation(ctx, e.s.pool, j.Tenant, j.Evaluation)
	if errors.Is(err, db.ErrNotFound) || err == nil && ev.Over() { // deleted, cancelled, or done by another
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	w, code, err := e.prepare(ctx, j.Tenant, ev)
	if err != nil {
		return 0, false, err
	}
	if code != "" {
		return 0, true, e.fail(ctx, j.Tenant, ev, code)
	}
	results, stuck, err := w.batch(ctx, until)
	if err != nil {
		return 0, false, err
	}
	if len(results) == 0 && stuck != nil && ev.Error != "" && ev.WaitsSince != nil && time.Since(*ev.WaitsSince) > givesUp {
		return 0, true, e.fail(ctx, j.Tenant, ev, stuck.code)
	}
	err = db.InTenant(ctx, e.s.pool, j.Tenant, func(tx pgx.Tx) error {
		now, err := db.AddResults(ctx, tx, j.Tenant, ev, results)
		if over = now.Over(); err != nil {
			return err
		}
		if stuck != nil {
			if now, err = db.HoldEvaluation(ctx, tx, j.Tenant, ev.ID, stuck.code, stuck.tries); err != nil {
				return err
			}
		}
		return tellProgress(ctx, tx, j.Tenant, now)
	})
	switch {
	case errors.Is(err, db.ErrNotFound), errors.Is(err, db.ErrOvertaken) && over:
		return 0, true, nil
	case errors.Is(err, db.ErrOvertaken):
		// Whoever has overtaken us has the same job: would it end here, he could not put it back after his shift.
		return stepAside, false, nil
	case stuck != nil:
		return waitLater, false, err
	}
	return 0, over, err
}

// fail ends an evaluation, unless it is over, and tells of it.
func (e *evaluator) fail(ctx context.Context, tenant string, ev db.Evaluation, code string) error {
	return db.InTenant(ctx, e.s.pool, tenant, func(tx pgx.Tx) error {
		now, err := db.LockEvaluation(ctx, tx, tenant, ev.ID)
		if err != nil || now.Over() {
			return err
		}
		if now, err = db.SetEvaluation(ctx, tx, tenant, ev.ID, db.EvaluationFailed, code); err != nil {
			return err
		}
		return tellProgress(ctx, tx, tenant, now)
	})
}

// progress is what is published of an evaluation.
type progress struct {
	Event  string `json:"event"` // created, progress, deleted
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	Cases  int64  `json:"cases"`
	Done   int64  `json:"done"`
	Passed int64  `json:"passed"`
	Errors int64  `json:"errors"`
}

func tellProgress(ctx context.Context, tx pgx.Tx, tenant string, e db.Evaluation) error {
	return tellEvaluation(ctx, tx, tenant, "progress", e)
}

func tellEvaluation(ctx context.Context, tx pgx.Tx, tenant, event string, e db.Evaluation) error {
	return tell(ctx, tx, EvaluationNamespace, tenant,
		progress{Event: event, ID: e.ID, Status: e.Status, Error: e.Error, Cases: e.Cases, Done: e.Done, Passed: e.Passed, Errors: e.Errors})
}

// work is what one batch needs.
type work struct {
	db.Evaluation
	prompt db.Prompt
	scorer *scorer
	model  model
	cases  []db.Case
	logger *slog.Logger
}

// prepare reads it. A code says why the evaluation has to fail.
func (e *evaluator) prepare(ctx context.Context, tenant string, ev db.Evaluation) (w work, code string, err error) {
	if e.s.cfg.Models == nil {
		return w, "no_models", nil
	}
	w = work{Evaluation: ev, model: model{handler: e.s.cfg.Models}, logger: e.s.logger}
	if w.model.caller, code, err = e.caller(ctx, tenant, ev.KeyID); err != nil || code != "" {
		return w, code, err
	}
	if w.prompt, err = db.ReadPrompt(ctx, e.s.pool, tenant, ev.PromptID, db.PromptChoice{Version: ev.Version}); err != nil {
		return w, "", err
	}
	var s Scoring
	if json.Unmarshal(ev.Scoring, &s) != nil {
		return w, "invalid_scoring", nil //nolint:nilerr // the code says what happened
	}
	if w.scorer, err = newScorer(s); err != nil {
		return w, "invalid_scoring", nil //nolint:nilerr // it was good when it was stored: the code says what happened
	}
	most := min(batchCases, int(ev.Cases-ev.Done))
	if ev.Error != "" { // enough to see whether the model is back
		most = min(most, casesAtOnce)
	}
	err = db.EachCase(ctx, e.s.pool, tenant, ev.DatasetID, ev.Done, most, func(one db.Case) bool {
		w.cases = append(w.cases, one)
		return true
	})
	return w, "", err
}

// caller is who made the evaluation, as his key is now.
func (e *evaluator) caller(ctx context.Context, tenant, keyID string) (llm.Caller, string, error) {
	if keyID == "" {
		return llm.Caller{Tenant: tenant}, "", nil
	}
	key, _, err := db.KeyByID(ctx, e.s.pool, keyID)
	switch {
	case errors.Is(err, db.ErrNotFound), err == nil && (key.Revoked != nil || key.Tenant != tenant):
		return llm.Caller{}, "api_key_revoked", nil
	case err != nil:
		return llm.Caller{}, "", err
	case key.Expires != nil && !time.Now().Before(*key.Expires):
		return llm.Caller{}, "api_key_expired", nil
	}
	return llm.Caller{Tenant: tenant, KeyID: keyID, Models: key.Models, LogBodies: key.LogBodies, Shared: key.Shared}, "", nil
}

// stuck is why a case has no result yet.
type stuck struct {
	code  string
	tries int // since the model was seen to answer other cases
}

var errNotBegun = errors.New("the case was not begun")

// batch asks the model about each case, and returns the results up to the first case that has none, and why it has none.
// What was answered behind that case is asked again, and comes from the cache.
func (w *work) batch(ctx context.Context, until time.Time) ([]db.Result, *stuck, error) {
	results, failures := make([]db.Result, len(w.cases)), make([]error, len(w.cases))
	var stop, answers atomic.Bool
	var g errgroup.Group
	g.SetLimit(casesAtOnce)
	for i, one := range w.cases {
		g.Go(func() error {
			if i >= casesAtOnce && (stop.Load() || time.Now().After(until)) {
				failures[i] = errNotBegun
				return nil
			}
			results[i], failures[i] = w.one(ctx, one)
			if failures[i] != nil {
				stop.Store(true)
			} else if results[i].Error == "" && results[i].Cache != "hit" {
				answers.Store(true)
			}
			return nil
		})
	}
	_ = g.Wait() // the failures are in their places
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("ask the model: %w", ctx.Err())
	}
	for i, failure := range failures {
		later := errLater{}
		switch {
		case failure == nil:
			continue
		case !errors.As(failure, &later): // what is not begun
			return results[:i], nil, nil
		}
		why := &stuck{code: later.code}
		if i == 0 && w.Error != "" {
			why.tries = w.Tries
		}
		if !later.refused && (why.tries > 0 || answers.Load()) {
			why.tries++
		}
		if why.tries < triesOfCase {
			return results[:i], why, nil
		}
		results[i].Error = why.code // it is the case, not the model
	}
	return results, nil, nil
}

// one asks about one case. An error is that of the batch; what is wrong with the case is its result, also what nobody has
// thought of: an answer may be anything, and must not end the process.
func (w *work) one(ctx context.Context, c db.Case) (r db.Result, err error) {
	began := time.Now()
	r.N = c.N
	defer func() {
		if p := recover(); p != nil {
			w.logger.ErrorContext(ctx, "a case of an evaluation panicked", "evaluation", w.ID, "case", c.N, "panic", p, "stack", string(debug.Stack()))
			r, err = db.Result{N: c.N, Error: "internal_error"}, nil
		}
		r.DurationMS = float64(time.Since(began).Microseconds()) / 1000
	}()
	err = w.answer(ctx, c, &r)
	if later := (errLater{}); errors.As(err, &later) || ctx.Err() != nil {
		return r, err
	}
	if err != nil {
		r.Error, r.Score = err.Error(), 0
	}
	r.Passed = r.Error == "" && r.Score >= w.scorer.passes
	return r, nil
}

func (w *work) answer(ctx context.Context, c db.Case, r *db.Result) error {
	values := make(map[string]string, len(w.prompt.Variables))
	for _, name := range w.prompt.Variables {
		values[name] = c.Variables[name]
	}
	message, err := render(w.prompt.Template, w.prompt.Variables, values)
	if err != nil {
		return errors.New("rendered_too_large")
	}
	got, err := w.model.ask(ctx, w.Model, message, w.Parameters)
	if err != nil {
		return err
	}
	r.Output, r.Cache = kept(got.text), got.cache
	if w.scorer.score != nil {
		r.Score, err = w.scorer.score(got.text, c.Expected)
		return err
	}
	r.Score, err = w.judge(ctx, got.text, c.Expected)
	return err
}

func (w *work) judge(ctx context.Context, output string, expected *string) (float64, error) {
	values := map[string]string{}
	for _, name := range w.scorer.variables {
		values[name] = output
		if name == "expected" {
			if expected == nil {
				return 0, errNothingExpected
			}
			values[name] = *expected
		}
	}
	message, err := render(w.scorer.Template, w.scorer.variables, values)
	if err != nil {
		return 0, errors.New("rendered_too_large")
	}
	verdict, err := w.model.ask(ctx, orElse(w.scorer.Scoring.Model, w.Model), message, json.RawMessage(`{"temperature":0}`))
	if err != nil {
		return 0, err
	}
	return judged(verdict.text)
}

// kept is what the table takes of an answer: Postgres has no place for a NUL.
func kept(s string) string {
	if len(s) > maxOutput {
		s = s[:maxOutput]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
}
