package access

import (
	"net/http"
	"strconv"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/handlers/stream"
)

// ExportedRun is a line of an export. Its cursor is what an export that was cut is resumed with.
type ExportedRun struct {
	Run
	Cursor string `json:"cursor"`
}

var runColumns = []string{"id", "started", "answer_id", "key_id", "endpoint", "model", "upstream", "status", "cache", "request_hash", "prompt_tokens",
	"completion_tokens", "cost_micros", "saved_micros", "first_token_ms", "duration_ms", "error", "cursor"}

// ExportRuns serves GET /v1/runs/export: all of the tenant's runs that ListRuns would show page by page, as NDJSON or
// CSV. It stands behind Authenticate.
func (g *Gate) ExportRuns(w http.ResponseWriter, r *http.Request) {
	caller, _ := llm.CallerFrom(r.Context())
	f, why := parseFilter(r.URL.RawQuery)
	if why == nil && r.URL.Query().Has("limit") {
		why = badParameter("limit", "is of pages alone: an export has all")
	}
	if why != nil {
		g.refuse(w, r, why)
		return
	}
	f.Tenant = caller.Tenant
	out := stream.New(w, stream.Type(r), runColumns, g.chunk)
	err := out.Copy(func(limit int) (more bool, err error) {
		rows := 0
		f.Limit = limit
		err = db.EachRun(r.Context(), g.pool, f, func(run *db.Run) error {
			line := ExportedRun{Run: newRun(*run), Cursor: encodeCursor(*run)}
			var texts []string
			if out.IsCSV() {
				texts = line.texts()
			}
			f.Before = db.RunCursor{Started: run.Started, ID: run.ID}
			rows++
			_, err := out.Row(&line, texts)
			return err
		})
		return rows == limit, err
	})
	if err != nil {
		g.failed(w, r, err)
	}
}

func (r ExportedRun) texts() []string {
	integer := func(n int64) string { return strconv.FormatInt(n, 10) }
	decimal := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	cost, first := "", ""
	if r.CostMicros != nil {
		cost = integer(*r.CostMicros)
	}
	if r.FirstTokenMS != nil {
		first = decimal(*r.FirstTokenMS)
	}
	return []string{r.ID, r.Started.Format(time.RFC3339Nano), r.AnswerID, text(r.KeyID), r.Endpoint, r.Model, text(r.Upstream), strconv.Itoa(int(r.Status)), r.Cache,
		r.RequestHash, integer(r.PromptTokens), integer(r.CompletionTokens), cost, integer(r.SavedMicros), first, decimal(r.DurationMS), text(r.Error), r.Cursor}
}
