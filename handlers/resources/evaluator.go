package resources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	workersAtOnce   = 2                // evaluations of one replica
	casesAtOnce     = 8                // of one evaluation
	batchCases      = 32               // whose results are stored together
	shift           = 20 * time.Second // then the job goes back into the queue, so that evaluations take turns
	workTimeout     = 3 * time.Minute  // more than a shift and the last batch can take; then a worker counts as dead
	waitLater       = 10 * time.Second // while the model cannot answer
	retryMost       = time.Minute      // after errors, and after a worker's death
	stepAside       = 10 * time.Second // for whoever goes on with the same evaluation
	givesUp         = 24 * time.Hour
	maxOutput       = 64 << 10 // bytes that are kept of an answer
	manyAttempts    = 10_000   // never reached: time is what ends the attempts
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
		wait, over, err := e.step(ctx, j.Args)
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
func (e *evaluator) step(ctx context.Context, j job) (wait time.Duration, over bool, err error) {
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
		return 0, true, e.set(ctx, j.Tenant, ev, db.EvaluationFailed, code)
	}
	results, err := w.batch(ctx)
	if later := (errLater{}); errors.As(err, &later) && ctx.Err() == nil {
		if time.Since(ev.Created) > givesUp {
			return 0, true, e.set(ctx, j.Tenant, ev, db.EvaluationFailed, later.code)
		}
		return waitLater, false, e.set(ctx, j.Tenant, ev, db.EvaluationRunning, later.code)
	}
	if err != nil {
		return 0, false, err
	}
	err = db.InTenant(ctx, e.s.pool, j.Tenant, func(tx pgx.Tx) error {
		now, err := db.AddResults(ctx, tx, j.Tenant, ev, results)
		over = now.Over()
		if err != nil {
			return err
		}
		return tellProgress(ctx, tx, j.Tenant, now)
	})
	switch {
	case errors.Is(err, db.ErrNotFound), errors.Is(err, db.ErrOvertaken) && over:
		return 0, true, nil
	case errors.Is(err, db.ErrOvertaken):
		// Whoever has overtaken us has the same job: would it end here, he could not put it back after his shift.
		return stepAside, false, nil
	}
	return 0, over, err
}

// set changes the state, unless it is over, and tells of it.
func (e *evaluator) set(ctx context.Context, tenant string, ev db.Evaluation, status, code string) error {
	return db.InTenant(ctx, e.s.pool, tenant, func(tx pgx.Tx) error {
		now, err := db.LockEvaluation(ctx, tx, tenant, ev.ID)
		if err != nil || now.Over() {
			return err
		}
		if now, err = db.SetEvaluation(ctx, tx, tenant, ev.ID, status, code); err != nil {
			return err
		}
		return tellProgress(ctx, tx, tenant, now)
	})
}

// progress is what is published of an evaluation.
type progress struct {
	Event  string `json:"event"`
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	Cases  int64  `json:"cases"`
	Done   int64  `json:"done"`
	Passed int64  `json:"passed"`
	Errors int64  `json:"errors"`
}

func tellProgress(ctx context.Context, tx pgx.Tx, tenant string, e db.Evaluation) error {
	b, err := json.Marshal(progress{Event: "progress", ID: e.ID, Status: e.Status, Error: e.Error, Cases: e.Cases, Done: e.Done, Passed: e.Passed, Errors: e.Errors})
	if err != nil {
		return fmt.Errorf("encode the progress: %w", err)
	}
	return db.Tell(ctx, tx, "$"+EvaluationNamespace+":"+tenant, b)
}

// work is what one batch needs.
type work struct {
	db.Evaluation
	prompt db.Prompt
	scorer *scorer
	model  model
	cases  []db.Case
}

// prepare reads it. A code says why the evaluation has to fail.
func (e *evaluator) prepare(ctx context.Context, tenant string, ev db.Evaluation) (w work, code string, err error) {
	if e.s.cfg.Models == nil {
		return w, "no_models", nil
	}
	w = work{Evaluation: ev, model: model{handler: e.s.cfg.Models}}
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
	return llm.Caller{Tenant: tenant, KeyID: keyID, Models: key.Models, Shared: key.Shared}, "", nil
}

// batch asks the model about each case. If it cannot answer now, the whole batch is asked again later; what it has
// answered by then comes from the cache.
func (w *work) batch(ctx context.Context) ([]db.Result, error) {
	results := make([]db.Result, len(w.cases))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(casesAtOnce)
	for i, one := range w.cases {
		g.Go(func() (err error) {
			results[i], err = w.one(ctx, one)
			return err
		})
	}
	return results, g.Wait()
}

// one asks about one case. An error is that of the batch; what is wrong with the case is its result.
func (w *work) one(ctx context.Context, c db.Case) (db.Result, error) {
	began := time.Now()
	r := db.Result{N: c.N}
	err := w.answer(ctx, c, &r)
	r.DurationMS = float64(time.Since(began).Microseconds()) / 1000
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
