package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Run is one request to a model, as the table forgewire.runs has it.
type Run struct {
	ID               string // its own; several runs may have got one answer
	Started          time.Time
	Tenant           string
	AnswerID         string
	KeyID            string // "" is the server's own key
	Endpoint         string
	Model            string
	Upstream         string
	Status           int32
	Cache            string
	RequestHash      string
	PromptTokens     int64
	CompletionTokens int64
	CostMicros       *int64         // nil: the price is not known
	SavedMicros      int64          // what it would have cost without the cache
	FirstToken       *time.Duration // after Started; nil: there was none
	Duration         time.Duration
	Error            string
	Bodies           *RunBodies // nil: not kept; only InsertRuns looks at it
}

// RunBodies are what was asked and answered in a run.
type RunBodies struct {
	Request, Answer []byte
	Cut             bool // there was more of one of them
}

// maxRunText bounds each text of a run. It is a record, not a copy of what a client may make up.
const maxRunText = 1024

// text makes s fit for the table: Postgres takes neither a NUL nor bytes that are not UTF-8.
func text(s string) string {
	if len(s) > maxRunText {
		s = s[:maxRunText]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
}

// noPartition is what Postgres says of a row whose day has no partition (check_violation).
const noPartition = "23514"

// InsertRuns stores runs in one round trip, making the day's partition where it is not there yet. A run cannot
// have begun in the future by the database's clock, nor more than a day before it is recorded: those are put
// where they may lie, so that a replica's wrong clock makes no partition of its own. A run that is there
// already stays as it is.
func InsertRuns(ctx context.Context, q Querier, runs []Run) error {
	err := insertRuns(ctx, q, runs)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == noPartition {
		if _, err = q.Exec(ctx, "SELECT forgewire.make_run_partitions()"); err != nil {
			return fmt.Errorf("make partitions for the runs: %w", err)
		}
		err = insertRuns(ctx, q, runs)
	}
	if err != nil {
		return fmt.Errorf("insert runs: %w", err)
	}
	return nil
}

func insertRuns(ctx context.Context, q Querier, runs []Run) error {
	n := len(runs)
	started, status := make([]time.Time, n), make([]int32, n)
	prompt, completion, saved, cost := make([]int64, n), make([]int64, n), make([]int64, n), make([]*int64, n)
	first, duration := make([]*time.Duration, n), make([]time.Duration, n)
	var texts [10][]string
	for j := range texts {
		texts[j] = make([]string, n)
	}
	for i, r := range runs {
		started[i], status[i], prompt[i], completion[i], cost[i] = r.Started, r.Status, r.PromptTokens, r.CompletionTokens, r.CostMicros
		first[i], duration[i], saved[i] = r.FirstToken, r.Duration, r.SavedMicros
		for j, s := range [...]string{r.ID, r.Tenant, r.AnswerID, r.KeyID, r.Endpoint, r.Model, r.Upstream, r.Cache, r.RequestHash, r.Error} {
			texts[j][i] = text(s)
		}
	}
	_, err := q.Exec(ctx, `INSERT INTO forgewire.runs (id, started, tenant, answer_id, key_id, endpoint, model, upstream, status,
			cache, request_hash, prompt_tokens, completion_tokens, cost_micros, saved_micros, first_token, duration, error)
		SELECT id, greatest(least(started, now()), now() - interval '1 day'), tenant, answer, key_id, endpoint, model, upstream, status,
			cache, request_hash, prompt, completion, cost, saved, first, duration, error
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
			$11::timestamptz[], $12::int[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::interval[], $18::interval[])
			AS r(id, tenant, answer, key_id, endpoint, model, upstream, cache, request_hash, error,
			started, status, prompt, completion, cost, saved, first, duration)
		ON CONFLICT DO NOTHING`,
		texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], texts[6], texts[7], texts[8], texts[9],
		started, status, prompt, completion, cost, saved, first, duration)
	if err != nil {
		return err //nolint:wrapcheck // InsertRuns says what was attempted
	}
	return insertBodies(ctx, q, runs)
}

func insertBodies(ctx context.Context, q Querier, runs []Run) error {
	var ids, tenants []string
	var started []time.Time
	var requests, answers [][]byte
	var cut []bool
	for _, r := range runs {
		if b := r.Bodies; b != nil {
			ids, tenants, started = append(ids, text(r.ID)), append(tenants, text(r.Tenant)), append(started, r.Started)
			requests, answers, cut = append(requests, b.Request), append(answers, b.Answer), append(cut, b.Cut)
		}
	}
	if ids == nil {
		return nil
	}
	_, err := q.Exec(ctx, `INSERT INTO forgewire.run_bodies (id, started, tenant, request, answer, cut)
		SELECT id, greatest(least(started, now()), now() - interval '1 day'), tenant, request, answer, cut
		FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bytea[], $5::bytea[], $6::boolean[]) AS b(id, started, tenant, request, answer, cut)
		ON CONFLICT DO NOTHING`, ids, started, tenants, requests, answers, cut)
	return err //nolint:wrapcheck // InsertRuns says what was attempted
}

// RetireRuns drops the days of runs that are older than asked, and those of their bodies.
func RetireRuns(ctx context.Context, q Querier, runsBefore, bodiesBefore time.Time) error {
	for _, of := range []struct {
		family string
		before time.Time
	}{{"runs", runsBefore}, {"run_bodies", bodiesBefore}} {
		for more := true; more; {
			if err := q.QueryRow(ctx, "SELECT forgewire.retire_days($1, $2)", of.family, of.before).Scan(&more); err != nil {
				return fmt.Errorf("retire %s: %w", of.family, err)
			}
		}
	}
	return nil
}

// RunFilter chooses runs of one tenant. Zero values choose all.
type RunFilter struct {
	Tenant       string
	Model        string
	Status       int32
	Cache        string
	AnswerID     string
	Since, Until time.Time // Since <= started < Until
	Before       RunCursor // the last of the page before
	Limit        int
}

// RunCursor is a place in the list of runs, which goes from the newest to the oldest.
type RunCursor struct {
	Started time.Time
	ID      string
}

const runColumns = `id, started, tenant, answer_id, key_id, endpoint, model, upstream, status, cache, request_hash, prompt_tokens,
	completion_tokens, cost_micros, saved_micros, first_token, duration, error`

// ListRuns reads a page of a tenant's runs, the newest first.
func ListRuns(ctx context.Context, pool *pgxpool.Pool, f RunFilter) ([]Run, error) {
	var runs []Run
	err := EachRun(ctx, pool, f, func(r *Run) error {
		runs = append(runs, *r)
		return nil
	})
	return runs, err
}

// EachRun is ListRuns for those who need one run at a time. It ends with the first error of each, which may keep the
// texts and the numbers of a run, but not the run: the next one takes its place.
func EachRun(ctx context.Context, pool *pgxpool.Pool, f RunFilter, each func(*Run) error) error {
	where, args := "tenant = $1", []any{f.Tenant}
	and := func(condition string, values ...any) {
		places := make([]any, len(values))
		for i := range values {
			places[i] = len(args) + 1 + i
		}
		where += " AND " + fmt.Sprintf(condition, places...)
		args = append(args, values...)
	}
	if f.Model != "" {
		and("model = $%d", f.Model)
	}
	if f.Status != 0 {
		and("status = $%d", f.Status)
	}
	if f.Cache != "" {
		and("cache = $%d", f.Cache)
	}
	if f.AnswerID != "" {
		and("answer_id = $%d", f.AnswerID)
	}
	if !f.Since.IsZero() {
		and("started >= $%d", f.Since)
	}
	if !f.Until.IsZero() {
		and("started < $%d", f.Until)
	}
	if f.Before.ID != "" {
		and("started <= $%d AND (started, id) < ($%[1]d, $%d)", f.Before.Started, f.Before.ID)
	}
	args = append(args, f.Limit)
	// One plan for all tenants would be the average one's: it sorts all runs of one that has far more, for each page.
	const planned = "SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"
	var r Run
	_, err := query(ctx, pool, f.Tenant, fmt.Sprintf(`SELECT %s FROM forgewire.runs WHERE %s
		ORDER BY started DESC, id DESC LIMIT $%d`, runColumns, where, len(args)), args, func(rows pgx.Rows) (pgconn.CommandTag, error) {
		return pgx.ForEachRow(rows, r.fields(), func() error { return each(&r) })
	}, planned)
	if err != nil {
		return fmt.Errorf("list runs: %w", err)
	}
	return nil
}

// fields are the places of runColumns.
func (r *Run) fields() []any {
	return []any{&r.ID, &r.Started, &r.Tenant, &r.AnswerID, &r.KeyID, &r.Endpoint, &r.Model, &r.Upstream, &r.Status, &r.Cache, &r.RequestHash,
		&r.PromptTokens, &r.CompletionTokens, &r.CostMicros, &r.SavedMicros, &r.FirstToken, &r.Duration, &r.Error}
}

// RunByID reads one run of a tenant. Without one it is ErrNotFound.
func RunByID(ctx context.Context, pool *pgxpool.Pool, tenant, id string) (Run, error) {
	run, err := query(ctx, pool, tenant, `SELECT `+runColumns+` FROM forgewire.runs
		WHERE tenant = $1 AND id = $2 ORDER BY started DESC LIMIT 1`, []any{tenant, id}, func(rows pgx.Rows) (Run, error) {
		return pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (r Run, err error) {
			err = row.Scan(r.fields()...)
			return r, err
		})
	})
	return run, orNotFound("read a run", err)
}

// BodiesOf reads what was asked and answered in a tenant's run. Where it is not kept, or no longer, it is ErrNotFound.
func BodiesOf(ctx context.Context, pool *pgxpool.Pool, tenant, id string) (RunBodies, error) {
	b, err := query(ctx, pool, tenant, `SELECT request, answer, cut FROM forgewire.run_bodies
		WHERE tenant = $1 AND id = $2 ORDER BY started DESC LIMIT 1`, []any{tenant, id}, func(rows pgx.Rows) (RunBodies, error) {
		return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[RunBodies])
	})
	return b, orNotFound("read a run's bodies", err)
}
