package access

import (
	"context"
	"net/http"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
)

// Usage is what a tenant used in a calendar month (UTC), as /v1/usage shows it.
type Usage struct {
	Object string     `json:"object"`
	Tenant string     `json:"tenant"`
	Since  time.Time  `json:"since"`
	Until  time.Time  `json:"until"`
	Total  UsageSum   `json:"total"`
	Keys   []UsageKey `json:"keys"`
}

// UsageKey is what one key used.
type UsageKey struct {
	KeyID *string `json:"key_id"` // null: the server's own key
	UsageSum
}

// UsageSum adds requests up.
type UsageSum struct {
	Requests         int64 `json:"requests"`
	Cached           int64 `json:"cached"`   // that no upstream was asked for
	Unpriced         int64 `json:"unpriced"` // whose cost is not in cost_micros, since the price is not known
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	CostMicros       int64 `json:"cost_micros"`
	SavedMicros      int64 `json:"saved_micros"`
}

// Usage serves GET /v1/usage: what the caller's tenant used this month, all replicas together, but for the last
// moments. It stands behind Authenticate.
func (g *Gate) Usage(w http.ResponseWriter, r *http.Request) {
	caller, _ := llm.CallerFrom(r.Context())
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	since := month(time.Now())
	rows, err := db.UsageOf(ctx, g.pool, caller.Tenant, since)
	if err != nil {
		g.failed(w, r, err)
		return
	}
	body := Usage{Object: "usage", Tenant: caller.Tenant, Since: since, Until: since.AddDate(0, 1, 0), Keys: make([]UsageKey, 0, len(rows))}
	for _, u := range rows {
		sum := UsageSum{Requests: u.Requests, Cached: u.Cached, Unpriced: u.Unpriced, PromptTokens: u.PromptTokens,
			CompletionTokens: u.CompletionTokens, CostMicros: u.CostMicros, SavedMicros: u.SavedMicros}
		body.Keys = append(body.Keys, UsageKey{KeyID: orNull(u.KeyID), UsageSum: sum})
		t := &body.Total
		t.Requests += u.Requests
		t.Cached += u.Cached
		t.Unpriced += u.Unpriced
		t.PromptTokens += u.PromptTokens
		t.CompletionTokens += u.CompletionTokens
		t.CostMicros += u.CostMicros
		t.SavedMicros += u.SavedMicros
	}
	g.write(w, r, http.StatusOK, body)
}
