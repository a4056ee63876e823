package resources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// However often a worker has died or failed, an evaluation is tried again within about a minute.
func TestRetriesStayShort(t *testing.T) {
	t.Parallel()
	for _, attempt := range []int{1, 2, 10, 100, manyAttempts} {
		j := &river.Job[job]{JobRow: &rivertype.JobRow{Attempt: attempt}}
		if wait := time.Until((&evaluator{}).NextRetry(j)); wait < time.Second || wait > time.Minute {
			t.Errorf("after attempt %d: %v", attempt, wait)
		}
	}
}

// oddModel repeats what it is asked, but for some questions.
func oddModel(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request struct{ Messages []struct{ Content string } }
	_ = json.Unmarshal(body, &request)
	text := request.Messages[0].Content
	switch {
	case strings.Contains(text, "panic"):
		panic("on purpose")
	case strings.Contains(text, "fail"):
		http.Error(w, `{"error":{"code":"upstream_error"}}`, http.StatusBadGateway)
		return
	case strings.Contains(text, "stopping"):
		http.Error(w, `{"error":{"code":"overloaded"}}`, http.StatusServiceUnavailable)
		return
	case strings.Contains(text, "slow"):
		select {
		case <-time.After(modelTimeout - time.Second):
		case <-r.Context().Done():
		}
		text = `{"score":1}`
	}
	w.Header().Set("Cache-Status", "forgewire; fwd=miss")
	_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": text}}}})
}

func workOf(t *testing.T, scoring Scoring, texts ...string) *work {
	t.Helper()
	sc, err := newScorer(scoring)
	if err != nil {
		t.Fatal(err)
	}
	w := &work{scorer: sc, model: model{handler: http.HandlerFunc(oddModel)}, logger: slog.New(slog.DiscardHandler),
		prompt: db.Prompt{PromptVersion: db.PromptVersion{Template: "{{x}}", Variables: []string{"x"}}}}
	w.Model, w.Parameters = "m", json.RawMessage("{}")
	for i, text := range texts {
		w.cases = append(w.cases, db.Case{N: int64(i + 1), Variables: map[string]string{"x": text}})
	}
	return w
}

// Whatever a model answers is a result of its case: nothing of it ends the process or touches the other cases.
func TestAnswersThatBreakThings(t *testing.T) {
	t.Parallel()
	w := workOf(t, Scoring{Type: "json_schema", Schema: json.RawMessage(`{"minimum":0}`)}, "1", "1e1000001", "panic", "2")
	results, stuck, err := w.batch(t.Context(), time.Now().Add(time.Minute))
	if err != nil || stuck != nil || len(results) != 4 {
		t.Fatal(results, stuck, err)
	}
	for i, want := range []string{"", "number_too_large", "internal_error", ""} {
		if r := results[i]; r.Error != want || r.N != int64(i+1) || r.Passed != (want == "") {
			t.Errorf("%+v, not %q", r, want)
		}
	}
}

// The slowest model does not keep a batch for longer than a worker has.
func TestABatchEndsBeforeItsWorkerIsTakenForDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := workOf(t, Scoring{Type: "judge", Template: "slow {{output}}"}, slices.Repeat([]string{"slow"}, batchCases)...)
		began := time.Now()
		results, stuck, err := w.batch(t.Context(), began.Add(shift-time.Nanosecond))
		if took := time.Since(began); err != nil || stuck != nil || len(results) != casesAtOnce || took > workTimeout-shift-scoreAndStore {
			t.Errorf("%d results, %v, %v, after %v", len(results), stuck, err, took)
		}
	})
}

// stepper is an evaluation in a database, done step by step.
type stepper struct {
	*evaluator
	t    *testing.T
	pool *pgxpool.Pool
	job  job
}

func newStepper(t *testing.T, texts ...string) *stepper {
	t.Helper()
	pool, err := db.NewPool(t.Context(), db.PoolConfig{URL: dbtest.New(t), MaxConns: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &stepper{t: t, pool: pool, job: job{Tenant: "acme", Evaluation: "ev_1"},
		evaluator: &evaluator{s: &Service{pool: pool, logger: slog.New(slog.DiscardHandler), cfg: Config{Models: http.HandlerFunc(oddModel)}}}}
	cases := make([]db.Case, len(texts))
	for i, text := range texts {
		cases[i] = db.Case{Variables: map[string]string{"x": text}, Expected: &text}
	}
	err = db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
		if _, err := db.CreatePrompt(t.Context(), tx, "acme", "pr_1", "p", db.PromptVersion{Template: "{{x}}", Variables: []string{"x"}}); err != nil {
			return err
		}
		d, err := db.CreateDataset(t.Context(), tx, "acme", "ds_1", "d")
		if err != nil {
			return err
		}
		if _, err = db.AddCases(t.Context(), tx, "acme", d, []string{"x"}, cases); err != nil {
			return err
		}
		_, err = db.CreateEvaluation(t.Context(), tx, "acme", db.Evaluation{ID: "ev_1", PromptID: "pr_1", Version: 1, DatasetID: "ds_1", Model: "m",
			Parameters: json.RawMessage("{}"), Scoring: json.RawMessage(`{"type":"exact"}`), Cases: int64(len(cases))})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stepper) next() (wait time.Duration, e db.Evaluation) {
	s.t.Helper()
	wait, _, err := s.step(s.t.Context(), s.job, time.Now().Add(time.Minute))
	if err != nil {
		s.t.Fatal(err)
	}
	if e, err = db.ReadEvaluation(s.t.Context(), s.pool, "acme", "ev_1"); err != nil {
		s.t.Fatal(err)
	}
	return wait, e
}

func (s *stepper) exec(sql string) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatal(err)
	}
}

// A case that the model fails at does not hold up the others: those before it are stored, and after some tries its result is
// the failure. While the model answers nothing at all, no case is to blame.
func TestOneBadCase(t *testing.T) {
	t.Parallel()
	s := newStepper(t, "a", "b", "fail", "d", "e")
	for try := range triesOfCase {
		wait, e := s.next()
		if last := try == triesOfCase-1; last && (e.Status != "done" || e.Done != 5 || e.Passed != 4 || e.Errors != 1) ||
			!last && (wait != waitLater || e.Done != 2 || e.Error != "upstream_error" || e.Status != "running") {
			t.Errorf("try %d: wait %v, %+v", try+1, wait, e)
		}
	}
	var n int
	if err := s.pool.QueryRow(t.Context(), "SELECT n FROM forgewire.evaluation_results WHERE error = 'upstream_error' AND score = 0 AND NOT passed").Scan(&n); err != nil || n != 3 {
		t.Error(n, err)
	}
	down := newStepper(t, "fail", "fail", "fail")
	for range 2 * triesOfCase {
		if wait, e := down.next(); wait != waitLater || e.Done != 0 || e.Status != "running" {
			t.Errorf("wait %v, %+v", wait, e)
		}
	}
	unasked := newStepper(t, "a", "stopping", "c") // by a replica that stops, whatever it had answered before
	for range 2 * triesOfCase {
		if wait, e := unasked.next(); wait != waitLater || e.Done != 1 || e.Status != "running" {
			t.Errorf("wait %v, %+v", wait, e)
		}
	}
}

// An evaluation gives up after a day without a result, however old it is.
func TestADayOfWaiting(t *testing.T) {
	t.Parallel()
	s := newStepper(t, "a", "fail")
	s.exec("UPDATE forgewire.evaluations SET created_at = now() - interval '3 days'")
	for range 2 {
		if _, e := s.next(); e.Status != "running" || e.Done != 1 {
			t.Errorf("%+v", e)
		}
	}
	s.exec("UPDATE forgewire.evaluations SET waits_since = waits_since - interval '23 hours', tries = 0")
	if _, e := s.next(); e.Status != "running" {
		t.Errorf("%+v", e)
	}
	s.exec("UPDATE forgewire.evaluations SET waits_since = waits_since - interval '2 hours'")
	if _, e := s.next(); e.Status != "failed" || e.Error != "upstream_error" || e.Done != 1 {
		t.Errorf("%+v", e)
	}
}

// A key's evaluations are logged as its other requests are.
func TestAnEvaluationsCallerIsItsKey(t *testing.T) {
	t.Parallel()
	s := newStepper(t)
	for i, logs := range []bool{true, false} {
		id := strings.Repeat(fmt.Sprintf("%c", 'a'+i), 16)
		key := db.Key{ID: id, Hash: []byte(strings.Repeat(id, 2)), Tenant: "acme", Models: []string{"m*"}, Shared: true, LogBodies: logs}
		if err := db.CreateKey(t.Context(), s.pool, key); err != nil {
			t.Fatal(err)
		}
		c, code, err := s.caller(context.Background(), "acme", id)
		if err != nil || code != "" || c.LogBodies != logs || !c.Shared || c.KeyID != id || !slices.Equal(c.Models, key.Models) {
			t.Errorf("%+v, %s, %v", c, code, err)
		}
	}
}

// What an evaluation refers to may go before it is stored.
func TestAnEvaluationOfWhatHasGone(t *testing.T) {
	t.Parallel()
	s := newStepper(t, "a")
	err := db.InTenant(t.Context(), s.pool, "acme", func(tx pgx.Tx) error {
		_, err := db.CreateEvaluation(t.Context(), tx, "acme", db.Evaluation{ID: "ev_2", PromptID: "pr_2", Version: 1, DatasetID: "ds_1", Model: "m",
			Parameters: json.RawMessage("{}"), Scoring: json.RawMessage("{}")})
		return err
	})
	if !errors.Is(err, db.ErrNotFound) {
		t.Error(err)
	}
}
