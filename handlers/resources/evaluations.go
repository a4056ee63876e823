package resources

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"forgewire/db"
	"forgewire/handlers/problem"
	"forgewire/handlers/stream"
)

const (
	evaluationPrefix = "ev_"
	maxModelName     = 200
	maxParameters    = 16 << 10 // bytes
)

// Evaluation is an evaluation as it is shown.
type Evaluation struct {
	ID         string          `json:"id"`
	Object     string          `json:"object"`
	PromptID   string          `json:"prompt_id"`
	Version    int32           `json:"prompt_version"`
	DatasetID  string          `json:"dataset_id"`
	Model      string          `json:"model"`
	Parameters json.RawMessage `json:"parameters"`
	Scoring    json.RawMessage `json:"scoring"`
	Status     string          `json:"status"`
	Error      *string         `json:"error"` // why it failed, or what it waits for
	Cases      int64           `json:"cases"`
	Done       int64           `json:"done"`
	Passed     int64           `json:"passed"`
	Errors     int64           `json:"errors"`
	MeanScore  *float64        `json:"mean_score"` // of those that are done; null: none is
	Created    time.Time       `json:"created_at"`
	Started    *time.Time      `json:"started_at"`
	Finished   *time.Time      `json:"finished_at"`
}

// Result is a line of an evaluation's results. The number of its case is what an export is resumed with.
type Result struct {
	Case       int64   `json:"case"`
	Score      float64 `json:"score"`
	Passed     bool    `json:"passed"`
	Output     string  `json:"output"`
	Error      string  `json:"error,omitempty"`
	Cache      string  `json:"cache,omitempty"`
	DurationMS float64 `json:"duration_ms"`
}

// Comparison is two evaluations of one data set side by side.
type Comparison struct {
	Object string         `json:"object"`
	A      Evaluation     `json:"a"`
	B      Evaluation     `json:"b"`
	Both   int64          `json:"both"`   // cases that both have a result of
	Better int64          `json:"better"` // of those, where b has the higher score
	Worse  int64          `json:"worse"`
	Same   int64          `json:"same"`
	MeanA  float64        `json:"mean_a"` // over the cases that both have
	MeanB  float64        `json:"mean_b"`
	Cases  Page[Compared] `json:"cases"`
}

// Compared is one case of two evaluations.
type Compared struct {
	Case      int64             `json:"case"`
	Variables map[string]string `json:"variables"`
	Expected  *string           `json:"expected"`
	A         Result            `json:"a"`
	B         Result            `json:"b"`
}

type newEvaluation struct {
	Prompt     string          `json:"prompt_id" api:"required"`
	Version    int32           `json:"prompt_version"` // of these two one, or none for the newest
	Label      string          `json:"prompt_label"`
	Dataset    string          `json:"dataset_id" api:"required"`
	Model      string          `json:"model" api:"required"`
	Parameters json.RawMessage `json:"parameters"` // of the request to the model, as temperature
	Scoring    Scoring         `json:"scoring" api:"required"`
}

func (s *Service) evaluationRoutes() []Route {
	const base = "/v1/evaluations"
	one := base + "/{id}"
	evaluation := reflect.TypeFor[Evaluation]()
	return []Route{
		{Method: http.MethodPost, Path: base, ID: "create_evaluation", About: "Ask a model a prompt's version with each case of a data set, in the background.", Header: []Param{onceOnly},
			Request: reflect.TypeFor[newEvaluation](), Response: evaluation, Status: http.StatusCreated, handle: createEvaluation},
		{Method: http.MethodGet, Path: base, ID: "list_evaluations", About: "The tenant's evaluations, the newest first.",
			Query: []Param{limitParam, afterParam}, Response: reflect.TypeFor[Page[Evaluation]](), Status: http.StatusOK, handle: listEvaluations},
		{Method: http.MethodGet, Path: one, ID: "get_evaluation", About: "An evaluation, and how far it is.", Response: evaluation, Status: http.StatusOK, handle: getEvaluation},
		{Method: http.MethodPost, Path: one + "/cancel", ID: "cancel_evaluation", About: "End an evaluation; what it has found stays.", Response: evaluation, Status: http.StatusOK, handle: cancelEvaluation},
		{Method: http.MethodDelete, Path: one, ID: "delete_evaluation", About: "Delete an evaluation with its results.", Status: http.StatusNoContent, handle: deleteEvaluation},
		{Method: http.MethodGet, Path: one + "/results", ID: "export_results", About: "All results, as NDJSON or CSV.",
			Query: []Param{{Name: "after", About: "The last case that is at hand: what follows it is sent."}}, ResponseTypes: streamTypes, Status: http.StatusOK, Stream: true, handle: exportResults},
		{Method: http.MethodGet, Path: one + "/compare", ID: "compare_evaluations", About: "Two evaluations of one data set, case by case.",
			Query: []Param{{Name: "with", About: "The id of the other one.", Required: true}, limitParam, afterParam}, Response: reflect.TypeFor[Comparison](), Status: http.StatusOK, handle: compareEvaluations},
	}
}

func showEvaluation(e db.Evaluation) Evaluation {
	shown := Evaluation{ID: e.ID, Object: "evaluation", PromptID: e.PromptID, Version: e.Version, DatasetID: e.DatasetID, Model: e.Model,
		Parameters: e.Parameters, Scoring: e.Scoring, Status: e.Status, Cases: e.Cases, Done: e.Done, Passed: e.Passed, Errors: e.Errors,
		Created: e.Created.UTC(), Started: e.Started, Finished: e.Finished}
	if e.Error != "" {
		shown.Error = &e.Error
	}
	if e.Done > 0 {
		mean := e.Score / float64(e.Done)
		shown.MeanScore = &mean
	}
	return shown
}

func createEvaluation(c *call) error {
	var body newEvaluation
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := body.check(); err != nil {
		return err
	}
	if c.s.cfg.Models == nil {
		return problem.New(http.StatusConflict, "no_models", "this server has no model: set FORGEWIRE_UPSTREAM_URL")
	}
	scoring, err := json.Marshal(body.Scoring)
	if err != nil {
		return fmt.Errorf("encode the scoring: %w", err)
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		p, err := db.ReadPromptTx(c.ctx, tx, c.tenant, body.Prompt, db.PromptChoice{Version: body.Version, Label: body.Label})
		if err != nil {
			return reply{}, missing(err, "prompt_id", "there is no such prompt, version or label")
		}
		d, err := db.LockDataset(c.ctx, tx, c.tenant, body.Dataset)
		if err != nil {
			return reply{}, missing(err, "dataset_id", "there is no such data set")
		}
		if err = fits(p, d); err != nil {
			return reply{}, err
		}
		e, err := db.CreateEvaluation(c.ctx, tx, c.tenant, db.Evaluation{ID: newID(evaluationPrefix), PromptID: p.ID, Version: p.Version, DatasetID: d.ID,
			Model: body.Model, Parameters: body.Parameters, Scoring: scoring, KeyID: c.caller.KeyID, Cases: d.Cases})
		if err != nil { // the prompt was not locked: it may have gone since
			return reply{}, missing(err, "prompt_id", "there is no such prompt, version or label")
		}
		if err = tellEvaluation(c.ctx, tx, c.tenant, "created", e); err != nil {
			return reply{}, err
		}
		return reply{status: http.StatusCreated, body: showEvaluation(e), location: "/v1/evaluations/" + e.ID, queue: &job{Tenant: c.tenant, Evaluation: e.ID}}, nil
	})
}

// check looks at what needs no database. Fields of the request to the model that are ours to set are refused.
func (body *newEvaluation) check() error {
	if !isID(promptPrefix, body.Prompt) {
		return problem.Bad("invalid_id", "prompt_id", "this is not the id of a prompt")
	}
	if !isID(datasetPrefix, body.Dataset) {
		return problem.Bad("invalid_id", "dataset_id", "this is not the id of a data set")
	}
	if body.Label != "" && (body.Version != 0 || !isLabel(body.Label)) || body.Version < 0 {
		return problem.Bad("invalid_choice", "prompt_label", "a version or a label, not both")
	}
	if body.Model == "" || len(body.Model) > maxModelName || len(body.Scoring.Model) > maxModelName {
		return problem.Bad("invalid_model", "model", fmt.Sprintf("a model's name has 1 to %d bytes", maxModelName))
	}
	if len(body.Parameters) == 0 || string(body.Parameters) == "null" {
		body.Parameters = json.RawMessage("{}")
	}
	var parameters map[string]json.RawMessage
	if len(body.Parameters) > maxParameters || json.Unmarshal(body.Parameters, &parameters) != nil {
		return problem.Bad("invalid_parameters", "parameters", fmt.Sprintf("parameters are an object of at most %d bytes", maxParameters))
	}
	for _, ours := range []string{"model", "messages", "stream", "stream_options", "n"} {
		if _, given := parameters[ours]; given {
			return problem.Bad("invalid_parameters", "parameters."+ours, "this parameter is not yours to set")
		}
	}
	_, err := newScorer(body.Scoring)
	return err
}

func missing(err error, field, why string) error {
	if problemOf(err) != notFound {
		return err
	}
	p := problem.New(http.StatusUnprocessableEntity, "no_such_resource", why)
	p.Field = field
	return p
}

// fits says whether each variable of the prompt has its place in the data set.
func fits(p db.Prompt, d db.Dataset) error {
	if d.Cases == 0 {
		return problem.New(http.StatusUnprocessableEntity, "no_cases", "the data set has no cases")
	}
	for _, name := range p.Variables {
		if !slices.Contains(d.Variables, name) {
			return wrongVariable("missing_variable", name, "the prompt has a variable that the data set has not")
		}
	}
	return nil
}

// enqueue puts the job into the queue, which is no tenant's, and wakes the replicas when the transaction commits.
func (c *call) enqueue(tx pgx.Tx, j *job) error {
	if err := db.LeaveTenant(c.ctx, tx); err != nil {
		return err
	}
	if err := c.s.cfg.Queue.Insert(c.ctx, tx, []river.InsertManyParams{{Args: *j, InsertOpts: &river.InsertOpts{Queue: evaluationQueue, MaxAttempts: manyAttempts}}}); err != nil {
		return err
	}
	if _, err := tx.Exec(c.ctx, "SELECT forgewire.announce($1, '')", db.QueueTopic); err != nil {
		return fmt.Errorf("wake the replicas: %w", err)
	}
	return nil
}

func listEvaluations(c *call) error {
	return list(c, "evaluations", func(_ map[string]string, after string, limit int) ([]db.Evaluation, error) {
		return db.ListEvaluations(c.ctx, c.s.pool, c.tenant, after, limit)
	}, func(r db.Evaluation) string { return r.ID }, showEvaluation)
}

func (c *call) evaluation(id string) (db.Evaluation, error) {
	if !isID(evaluationPrefix, id) {
		return db.Evaluation{}, notFound
	}
	return db.ReadEvaluation(c.ctx, c.s.pool, c.tenant, id)
}

func getEvaluation(c *call) error {
	e, err := c.evaluation(chi.URLParam(c.r, "id"))
	if err != nil {
		return err
	}
	return c.show(showEvaluation(e))
}

func cancelEvaluation(c *call) error {
	id, err := c.id(evaluationPrefix)
	if err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		e, err := db.LockEvaluation(c.ctx, tx, c.tenant, id)
		if err != nil {
			return reply{}, err
		}
		if !e.Over() {
			if e, err = db.SetEvaluation(c.ctx, tx, c.tenant, e.ID, db.EvaluationCancelled, ""); err != nil {
				return reply{}, err
			}
			err = tellProgress(c.ctx, tx, c.tenant, e)
		}
		return reply{status: http.StatusOK, body: showEvaluation(e)}, err
	})
}

func deleteEvaluation(c *call) error {
	id, err := c.id(evaluationPrefix)
	if err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		e, err := db.LockEvaluation(c.ctx, tx, c.tenant, id)
		if err != nil {
			return reply{}, err
		}
		if err = db.DeleteEvaluation(c.ctx, tx, c.tenant, id); err != nil {
			return reply{}, err
		}
		return reply{status: http.StatusNoContent}, tellEvaluation(c.ctx, tx, c.tenant, "deleted", e)
	})
}

func showResult(r db.Result) Result {
	return Result{Case: r.N, Score: r.Score, Passed: r.Passed, Output: r.Output, Error: r.Error, Cache: r.Cache, DurationMS: r.DurationMS}
}

func exportResults(c *call) error {
	after, err := c.resumeAfter()
	if err != nil {
		return err
	}
	e, err := c.evaluation(chi.URLParam(c.r, "id"))
	if err != nil {
		return err
	}
	out := stream.New(c.w, stream.Type(c.r), []string{"case", "score", "passed", "output", "error", "cache", "duration_ms"}, c.s.cfg.Chunk)
	return out.Copy(func(limit int) (more bool, err error) {
		rows := 0
		err = db.EachResult(c.ctx, c.s.pool, c.tenant, e.ID, after, limit, func(r db.Result) bool {
			var texts []string
			if out.IsCSV() {
				texts = []string{strconv.FormatInt(r.N, 10), decimal(r.Score), strconv.FormatBool(r.Passed), r.Output, r.Error, r.Cache, decimal(r.DurationMS)}
			}
			var room bool
			room, err = out.Row(showResult(r), texts)
			after, more = r.N, !room
			rows++
			return room && err == nil
		})
		return more || rows == limit, err
	})
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func compareEvaluations(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	a, err := c.evaluation(chi.URLParam(c.r, "id"))
	if err != nil {
		return err
	}
	b, err := c.evaluation(query["with"])
	if err != nil {
		return missing(err, "with", "there is no such evaluation to compare with")
	}
	if a.DatasetID != b.DatasetID {
		return problem.New(http.StatusConflict, "other_dataset", "the two evaluations are of different data sets")
	}
	kind := a.ID + " " + b.ID
	limit, place, err := pageOf(query, kind)
	if err != nil {
		return err
	}
	after := int64(0)
	if place != "" {
		if after, err = strconv.ParseInt(place, 10, 64); err != nil {
			return badParameter("after", "is not what a page of this list said under after")
		}
	}
	cases, tally, err := db.CompareEvaluations(c.ctx, c.s.pool, c.tenant, a.DatasetID, a.ID, b.ID, after, limit+1)
	if err != nil {
		return err
	}
	page := newPage(cases, limit, kind, func(c db.Compared) string { return strconv.FormatInt(c.N, 10) }, func(c db.Compared) Compared {
		return Compared{Case: c.N, Variables: c.Variables, Expected: c.Expected, A: showResult(c.A), B: showResult(c.B)}
	})
	return c.show(Comparison{Object: "evaluation.comparison", A: showEvaluation(a), B: showEvaluation(b), Both: tally.Both, Better: tally.Better,
		Worse: tally.Worse, Same: tally.Same, MeanA: tally.ScoreA, MeanB: tally.ScoreB, Cases: page})
}
