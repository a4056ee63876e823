package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The states of an evaluation.
const (
	EvaluationQueued    = "queued"
	EvaluationRunning   = "running"
	EvaluationDone      = "done"
	EvaluationFailed    = "failed"
	EvaluationCancelled = "cancelled"
)

// Evaluation is a prompt's version, asked of a model with each case of a data set.
type Evaluation struct {
	ID         string
	PromptID   string
	Version    int32
	DatasetID  string
	Model      string
	Parameters json.RawMessage
	Scoring    json.RawMessage
	KeyID      string // as whom the model is asked; "" is the server's own key
	Status     string
	Error      string // a code: why it failed, or what it waits for
	Cases      int64
	Done       int64 // the cases 1 to Done have their results, no other has
	Passed     int64
	Errors     int64
	Score      float64 // the sum
	Created    time.Time
	Started    *time.Time
	Finished   *time.Time
	WaitsSince *time.Time // these two are of one that is running with an error: since when it waits, and how often
	Tries      int        // the next case was tried, since the model was seen to answer others
}

// Over says that nothing of it will change any more.
func (e Evaluation) Over() bool { return e.Status != EvaluationQueued && e.Status != EvaluationRunning }

// Result is what became of one case.
type Result struct {
	N          int64
	Score      float64
	Passed     bool
	Output     string
	Error      string // a code, or ""
	Cache      string
	DurationMS float64
}

// Compared is one case of two evaluations.
type Compared struct {
	N         int64
	Variables map[string]string
	Expected  *string
	A, B      Result
}

const evaluationColumns = `e.id, e.prompt_id, e.prompt_version, e.dataset_id, e.model, e.parameters, e.scoring, e.key_id, e.status, e.error,
	e.cases, e.done, e.passed, e.errors, e.score, e.created_at, e.started_at, e.finished_at, e.waits_since, e.tries FROM forgewire.evaluations e WHERE e.tenant = $1`

// CreateEvaluation stores an evaluation that is queued. ErrNotFound: what it refers to has gone.
func CreateEvaluation(ctx context.Context, tx pgx.Tx, tenant string, e Evaluation) (Evaluation, error) {
	_, err := tx.Exec(ctx, `INSERT INTO forgewire.evaluations (tenant, id, prompt_id, prompt_version, dataset_id, model, parameters, scoring, key_id, cases)
		VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10)`,
		tenant, e.ID, e.PromptID, e.Version, e.DatasetID, e.Model, string(e.Parameters), string(e.Scoring), e.KeyID, e.Cases)
	if err != nil {
		if err = orConflict("create an evaluation", err); errors.Is(err, ErrInUse) {
			err = ErrNotFound
		}
		return Evaluation{}, err
	}
	return readEvaluation(ctx, tx, tenant, e.ID, "")
}

// LockEvaluation holds an evaluation until the transaction ends.
func LockEvaluation(ctx context.Context, tx pgx.Tx, tenant, id string) (Evaluation, error) {
	return readEvaluation(ctx, tx, tenant, id, " FOR UPDATE")
}

func readEvaluation(ctx context.Context, tx pgx.Tx, tenant, id, lock string) (Evaluation, error) {
	rows, err := tx.Query(ctx, "SELECT "+evaluationColumns+" AND e.id = $2"+lock, tenant, id)
	if err != nil {
		return Evaluation{}, fmt.Errorf("read an evaluation: %w", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Evaluation])
	return e, orNotFound("read an evaluation", err)
}

// ReadEvaluation reads an evaluation, without its results.
func ReadEvaluation(ctx context.Context, pool *pgxpool.Pool, tenant, id string) (Evaluation, error) {
	e, err := query(ctx, pool, tenant, "SELECT "+evaluationColumns+" AND e.id = $2", []any{tenant, id},
		func(rows pgx.Rows) (Evaluation, error) {
			return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Evaluation])
		})
	return e, orNotFound("read an evaluation", err)
}

// ListEvaluations reads a page, the newest first, those before the id `before` if there is one.
func ListEvaluations(ctx context.Context, pool *pgxpool.Pool, tenant, before string, limit int) ([]Evaluation, error) {
	found, err := query(ctx, pool, tenant, "SELECT "+evaluationColumns+" AND ($2 = '' OR e.id < $2) ORDER BY e.id DESC LIMIT $3", []any{tenant, before, limit},
		func(rows pgx.Rows) ([]Evaluation, error) {
			return pgx.CollectRows(rows, pgx.RowToStructByPos[Evaluation])
		})
	if err != nil {
		return nil, fmt.Errorf("list evaluations: %w", err)
	}
	return found, nil
}

// DeleteEvaluation deletes an evaluation with its results.
func DeleteEvaluation(ctx context.Context, tx pgx.Tx, tenant, id string) error {
	done, err := tx.Exec(ctx, "DELETE FROM forgewire.evaluations WHERE tenant = $1 AND id = $2", tenant, id)
	if err != nil {
		return orConflict("delete an evaluation", err)
	}
	if done.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}

// ErrOvertaken says that another worker has gone on with an evaluation, or that it is over.
var ErrOvertaken = errors.New("another worker has done this part of the evaluation")

// AddResults stores the results of the cases that follow those that are done. Either all of them are stored and
// counted, or none: a worker that was taken for dead is ErrOvertaken, so no case is counted twice. The evaluation that
// it returns is as it is now.
func AddResults(ctx context.Context, tx pgx.Tx, tenant string, e Evaluation, results []Result) (Evaluation, error) {
	now, err := LockEvaluation(ctx, tx, tenant, e.ID)
	if err != nil {
		return e, err
	}
	if now.Over() || now.Done != e.Done {
		return now, ErrOvertaken
	}
	n := len(results)
	if n == 0 {
		return now, nil
	}
	numbers, scores, passed := make([]int64, n), make([]float64, n), make([]bool, n)
	outputs, faults, caches, took := make([]string, n), make([]string, n), make([]string, n), make([]float64, n)
	for i, r := range results {
		numbers[i], scores[i], passed[i], outputs[i], faults[i], caches[i], took[i] = r.N, r.Score, r.Passed, r.Output, r.Error, r.Cache, r.DurationMS
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO forgewire.evaluation_results (tenant, evaluation_id, n, score, passed, output, error, cache, duration_ms)
		SELECT $1, $2, r.* FROM unnest($3::bigint[], $4::float8[], $5::boolean[], $6::text[], $7::text[], $8::text[], $9::float8[]) AS r`,
		tenant, e.ID, numbers, scores, passed, outputs, faults, caches, took)
	b.Queue(`UPDATE forgewire.evaluations e SET done = e.done + r.n, passed = e.passed + r.passed, errors = e.errors + r.errors, score = e.score + r.score, error = '',
			started_at = coalesce(e.started_at, now()), status = CASE WHEN e.done + r.n >= e.cases THEN 'done' ELSE 'running' END,
			finished_at = CASE WHEN e.done + r.n >= e.cases THEN now() END
		FROM (SELECT $3::bigint AS n, $4::bigint AS passed, $5::bigint AS errors, $6::float8 AS score) r WHERE e.tenant = $1 AND e.id = $2`,
		append([]any{tenant, e.ID}, totals(results)...)...)
	if err = tx.SendBatch(ctx, b).Close(); err != nil {
		return e, fmt.Errorf("store results: %w", err)
	}
	return readEvaluation(ctx, tx, tenant, e.ID, "")
}

func totals(results []Result) []any {
	var passed, faults int64
	var score float64
	for _, r := range results {
		if r.Passed {
			passed++
		}
		if r.Error != "" {
			faults++
		}
		score += r.Score
	}
	return []any{int64(len(results)), passed, faults, score}
}

// SetEvaluation changes the state of an evaluation that the transaction has locked, with a code for the reason.
func SetEvaluation(ctx context.Context, tx pgx.Tx, tenant, id, status, reason string) (Evaluation, error) {
	_, err := tx.Exec(ctx, `UPDATE forgewire.evaluations SET status = $3, error = $4,
		finished_at = CASE WHEN $3 IN ('done', 'failed', 'cancelled') THEN now() END WHERE tenant = $1 AND id = $2`, tenant, id, status, reason)
	if err != nil {
		return Evaluation{}, fmt.Errorf("change an evaluation: %w", err)
	}
	return readEvaluation(ctx, tx, tenant, id, "")
}

// HoldEvaluation says what an evaluation waits for that the transaction has locked. It does so from now on, unless it did before.
func HoldEvaluation(ctx context.Context, tx pgx.Tx, tenant, id, reason string, tries int) (Evaluation, error) {
	_, err := tx.Exec(ctx, `UPDATE forgewire.evaluations SET status = 'running', error = $3, tries = $4,
		waits_since = CASE WHEN error = '' THEN now() ELSE coalesce(waits_since, now()) END WHERE tenant = $1 AND id = $2`, tenant, id, reason, tries)
	if err != nil {
		return Evaluation{}, fmt.Errorf("hold an evaluation: %w", err)
	}
	return readEvaluation(ctx, tx, tenant, id, "")
}

// EachResult calls f with the results of an evaluation after a number, in order, `limit` at most, until it says no.
func EachResult(ctx context.Context, pool *pgxpool.Pool, tenant, id string, after int64, limit int, f func(Result) bool) error {
	_, err := query(ctx, pool, tenant, `SELECT n, score, passed, output, error, cache, duration_ms FROM forgewire.evaluation_results
		WHERE tenant = $1 AND evaluation_id = $2 AND n > $3 ORDER BY n LIMIT $4`, []any{tenant, id, after, limit}, each(f))
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	return nil
}

// Tally counts how the cases of two evaluations compare that both have results.
type Tally struct {
	Both, Better, Worse, Same int64 // b than a
	ScoreA, ScoreB            float64
}

const bothResults = ` FROM forgewire.evaluation_results a JOIN forgewire.evaluation_results b ON b.tenant = a.tenant AND b.evaluation_id = $3 AND b.n = a.n`

// CompareEvaluations reads a page of the cases of two evaluations of one data set, after a number, and how all of
// them compare.
func CompareEvaluations(ctx context.Context, pool *pgxpool.Pool, tenant, dataset, a, b string, after int64, limit int) ([]Compared, Tally, error) {
	rows, err := query(ctx, pool, tenant, `SELECT a.n, c.variables, c.expected, a.score, a.passed, a.output, a.error, a.cache, a.duration_ms,
			b.score, b.passed, b.output, b.error, b.cache, b.duration_ms`+bothResults+`
		JOIN forgewire.dataset_cases c ON c.tenant = a.tenant AND c.dataset_id = $4 AND c.n = a.n
		WHERE a.tenant = $1 AND a.evaluation_id = $2 AND a.n > $5 ORDER BY a.n LIMIT $6`, []any{tenant, a, b, dataset, after, limit},
		func(rows pgx.Rows) ([]Compared, error) {
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Compared, error) {
				var c Compared
				err := row.Scan(&c.N, &c.Variables, &c.Expected, &c.A.Score, &c.A.Passed, &c.A.Output, &c.A.Error, &c.A.Cache, &c.A.DurationMS,
					&c.B.Score, &c.B.Passed, &c.B.Output, &c.B.Error, &c.B.Cache, &c.B.DurationMS)
				return c, err
			})
		})
	if err != nil {
		return nil, Tally{}, fmt.Errorf("compare evaluations: %w", err)
	}
	tally, err := query(ctx, pool, tenant, `SELECT count(*), count(*) FILTER (WHERE b.score > a.score), count(*) FILTER (WHERE b.score < a.score),
		count(*) FILTER (WHERE b.score = a.score), coalesce(avg(a.score), 0), coalesce(avg(b.score), 0)`+bothResults+`
		WHERE a.tenant = $1 AND a.evaluation_id = $2`, []any{tenant, a, b},
		func(rows pgx.Rows) (Tally, error) {
			return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Tally])
		})
	if err != nil {
		return nil, Tally{}, fmt.Errorf("compare evaluations: %w", err)
	}
	return rows, tally, nil
}
