package access

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"forgewire/cache/llm"
	"forgewire/db"
)

const (
	defaultPage = 20
	maxPage     = 100
	maxFilter   = 256             // bytes of a filter's text
	readTimeout = 5 * time.Second // of one page: a filter that finds little in much is told to look at less
)

// Run is a run as /v1/runs shows it.
type Run struct {
	ID               string    `json:"id"`
	Object           string    `json:"object"`
	Started          time.Time `json:"started"`
	AnswerID         string    `json:"answer_id"`
	KeyID            *string   `json:"key_id"` // null: the server's own key
	Endpoint         string    `json:"endpoint"`
	Model            string    `json:"model"`
	Upstream         *string   `json:"upstream"` // null: nobody was asked
	Status           int32     `json:"status"`
	Cache            string    `json:"cache"`
	RequestHash      string    `json:"request_hash"`
	PromptTokens     int64     `json:"prompt_tokens"`
	CompletionTokens int64     `json:"completion_tokens"`
	CostMicros       *int64    `json:"cost_micros"` // null: the price is not known
	SavedMicros      int64     `json:"saved_micros"`
	FirstTokenMS     *float64  `json:"first_token_ms"` // null: there was none
	DurationMS       float64   `json:"duration_ms"`
	Error            *string   `json:"error"`
}

// RunDetail is a run with what was asked and answered, where that is kept.
type RunDetail struct {
	Run
	Request   string `json:"request,omitempty"`
	Answer    string `json:"answer,omitempty"`
	BodiesCut bool   `json:"bodies_cut,omitempty"` // there was more of one of them
}

func newRun(r db.Run) Run {
	b := Run{ID: r.ID, Object: "run", Started: r.Started.UTC(), AnswerID: r.AnswerID, KeyID: orNull(r.KeyID), Endpoint: r.Endpoint,
		Model: r.Model, Upstream: orNull(r.Upstream), Status: r.Status, Cache: r.Cache, RequestHash: r.RequestHash,
		PromptTokens: r.PromptTokens, CompletionTokens: r.CompletionTokens, CostMicros: r.CostMicros, SavedMicros: r.SavedMicros,
		DurationMS: milliseconds(r.Duration), Error: orNull(r.Error)}
	if r.FirstToken != nil {
		ms := milliseconds(*r.FirstToken)
		b.FirstTokenMS = &ms
	}
	return b
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// RunPage is a page, in the form of OpenAI's lists.
type RunPage struct {
	Object  string  `json:"object"`
	Data    []Run   `json:"data"`
	HasMore bool    `json:"has_more"`
	After   *string `json:"after"` // the parameter for the next page; null: this is the last
}

// ListRuns serves GET /v1/runs: the caller's tenant's runs, the newest first. It stands behind Authenticate.
func (g *Gate) ListRuns(w http.ResponseWriter, r *http.Request) {
	caller, _ := llm.CallerFrom(r.Context())
	f, why := parseFilter(r.URL.RawQuery)
	if why != nil {
		g.refuse(w, r, why)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	page := f.Limit
	f.Tenant, f.Limit = caller.Tenant, page+1 // one more tells whether there is more
	runs, err := db.ListRuns(ctx, g.pool, f)
	if err != nil {
		g.failed(w, r, err)
		return
	}
	list := RunPage{Object: "list", Data: make([]Run, 0, len(runs))}
	for i, run := range runs {
		if i == page {
			list.HasMore, list.After = true, orNull(encodeCursor(runs[i-1]))
			break
		}
		list.Data = append(list.Data, newRun(run))
	}
	g.write(w, r, http.StatusOK, list)
}

// failed answers for the database. A caller that left gets nothing, and is nothing to warn of.
func (g *Gate) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		g.logger.WarnContext(r.Context(), "the database could not be asked", "error", err)
	}
	g.refuse(w, r, unavailable)
}

// GetRun serves GET /v1/runs/{id}. It stands behind Authenticate. Another tenant's run is one that does not exist.
func (g *Gate) GetRun(w http.ResponseWriter, r *http.Request) {
	caller, _ := llm.CallerFrom(r.Context())
	id := chi.URLParam(r, "id")
	if !isRunID(id) {
		g.refuse(w, r, notFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	run, err := db.RunByID(ctx, g.pool, caller.Tenant, id)
	if errors.Is(err, db.ErrNotFound) {
		g.refuse(w, r, notFound)
		return
	}
	if err != nil {
		g.failed(w, r, err)
		return
	}
	bodies, err := db.BodiesOf(ctx, g.pool, caller.Tenant, id)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		g.failed(w, r, err)
		return
	}
	g.write(w, r, http.StatusOK, RunDetail{Run: newRun(run), Request: string(bodies.Request), Answer: string(bodies.Answer), BodiesCut: bodies.Cut})
}

// parseFilter reads the query of ListRuns. What it does not know is refused: a filter with a typo would show
// everything.
func parseFilter(query string) (db.RunFilter, *llm.Refusal) {
	f := db.RunFilter{Limit: defaultPage}
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, badParameter("query", "is not well formed")
	}
	for name, given := range values {
		v := given[0]
		if len(given) > 1 {
			return f, badParameter(name, "is given twice")
		}
		if v == "" || len(v) > maxFilter || !utf8.ValidString(v) || strings.Contains(v, "\x00") {
			return f, badParameter(name, "is empty, too long or not text")
		}
		if why := setFilter(&f, name, v); why != "" {
			return f, badParameter(name, why)
		}
	}
	return f, nil
}

func setFilter(f *db.RunFilter, name, v string) (why string) {
	var n int
	var err error
	var ok bool
	switch name {
	case "limit":
		f.Limit, err = strconv.Atoi(v)
		if err != nil || f.Limit < 1 || f.Limit > maxPage {
			return "is not a number from 1 to 100"
		}
	case "after":
		if f.Before, ok = decodeCursor(v); !ok {
			return "is not what a page said under after"
		}
	case "model":
		f.Model = v
	case "answer_id":
		f.AnswerID = v
	case "status":
		n, err = strconv.Atoi(v)
		if err != nil || n < 100 || n > 599 {
			return "is not an HTTP status"
		}
		f.Status = int32(n) //nolint:gosec // 100 to 599
	case "cache":
		switch llm.Outcome(v) {
		case llm.Hit, llm.Miss, llm.Collapsed, llm.Stale, llm.Bypass:
			f.Cache = v
		default:
			return "is not hit, miss, collapsed, stale or bypass"
		}
	case "since":
		if f.Since, ok = moment(v); !ok {
			return "is neither a time as in 2026-01-31T12:00:00Z nor seconds since 1970"
		}
	case "until":
		if f.Until, ok = moment(v); !ok {
			return "is neither a time as in 2026-01-31T12:00:00Z nor seconds since 1970"
		}
	default:
		return "is not a parameter of this path"
	}
	return ""
}

func moment(v string) (time.Time, bool) {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Unix(n, 0), n > 0 && n <= maxMicros/1_000_000
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	return t, err == nil && t.Year() >= 1970 // and at most 9999, which is RFC 3339's end
}
