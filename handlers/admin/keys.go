package admin

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/handlers/access"
	"forgewire/realtime"
)

// key is an API key, without what opens anything.
type key struct {
	ID                string     `json:"id"`
	Tenant            string     `json:"tenant"`
	Name              string     `json:"name"`
	Models            []string   `json:"models"`
	RequestsPerMinute *int64     `json:"requests_per_minute"`
	TokensPerMinute   *int64     `json:"tokens_per_minute"`
	BudgetMicros      *int64     `json:"budget_micros"`
	Shared            bool       `json:"shared"`
	Created           time.Time  `json:"created"`
	Expires           *time.Time `json:"expires"`
	Revoked           *time.Time `json:"revoked"`
}

type keyList struct {
	Keys    []key  `json:"keys"`
	Total   int    `json:"total"`
	Default string `json:"default_tenant"` // whose the server's own key is
}

const maxKeys = 500 // that are listed, the newest

func (a *Admin) getKeys(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	rows, err := db.ListKeys(ctx, a.cfg.Pool, "")
	if err != nil {
		a.failed(w, r, err)
		return
	}
	list := keyList{Keys: []key{}, Total: len(rows), Default: access.DefaultTenant}
	for _, k := range rows[:min(len(rows), maxKeys)] {
		list.Keys = append(list.Keys, key{ID: k.ID, Tenant: k.Tenant, Name: k.Name, Models: k.Models, RequestsPerMinute: k.RequestsPerMinute,
			TokensPerMinute: k.TokensPerMinute, BudgetMicros: k.BudgetMicros, Shared: k.Shared, Created: k.Created, Expires: k.Expires, Revoked: k.Revoked})
	}
	a.write(w, r, http.StatusOK, list)
}

// newKey is a key to make. What is left out has no limit.
type newKey struct {
	Tenant            string   `json:"tenant"`
	Name              string   `json:"name"`
	Models            []string `json:"models"`
	RequestsPerMinute *int64   `json:"requests_per_minute"`
	Budget            *float64 `json:"budget"` // a month
}

func (k newKey) row() (row db.Key, secret string, err error) {
	row = db.Key{Tenant: k.Tenant, Name: k.Name, Models: k.Models, RequestsPerMinute: k.RequestsPerMinute}
	if k.RequestsPerMinute != nil && *k.RequestsPerMinute <= 0 {
		return row, "", realtime.ErrBadRequest.With("requests a minute must be above 0")
	}
	if k.Budget != nil {
		if !(*k.Budget >= 0 && *k.Budget <= 1e12) {
			return row, "", realtime.ErrBadRequest.With("a budget is an amount of at least 0")
		}
		row.BudgetMicros = new(int64(math.Round(*k.Budget * 1e6)))
	}
	row.ID, secret, row.Hash = access.NewKey()
	return row, secret, nil
}

// postKey makes a key, and shows it this once.
func (a *Admin) postKey(w http.ResponseWriter, r *http.Request) {
	var wanted newKey
	err := read(w, r, &wanted)
	var row db.Key
	var secret string
	if err == nil {
		row, secret, err = wanted.row()
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		err = db.CreateKey(ctx, a.cfg.Pool, row)
	}
	if why := db.KeyMistake(err); why != "" {
		err = realtime.ErrBadRequest.With(why)
	}
	if err != nil {
		a.failed(w, r, err)
		return
	}
	a.cfg.Logger.InfoContext(r.Context(), "a key was made on the dashboard", "key_id", row.ID)
	a.write(w, r, http.StatusCreated, struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}{row.ID, secret})
}

// deleteKey revokes a key, for good.
func (a *Admin) deleteKey(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	if access.CheckID(id) != nil {
		a.fail(w, r, http.StatusNotFound, "there is no such key")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	err := db.RevokeKey(ctx, a.cfg.Pool, id)
	switch {
	case errors.Is(err, db.ErrNotFound):
		a.fail(w, r, http.StatusNotFound, "there is no such key, or it was revoked before")
	case err != nil:
		a.failed(w, r, err)
	default:
		a.cfg.Logger.InfoContext(r.Context(), "a key was revoked on the dashboard", "key_id", id)
		a.write(w, r, http.StatusOK, struct{}{})
	}
}

// asTenant serves what /v1 serves the tenant's keys. A tenant's name may have anything in it: chi matches the path as it
// came where that has something encoded, and else the decoded one.
func (a *Admin) asTenant(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tenant := chi.URLParam(r, "tenant")
		if r.URL.RawPath != "" {
			var err error
			if tenant, err = url.PathUnescape(tenant); err != nil {
				a.fail(w, r, http.StatusBadRequest, "the tenant's name in the path is not encoded properly")
				return
			}
		}
		w.Header().Set("Cache-Control", "no-store")
		next(w, r.WithContext(llm.WithCaller(r.Context(), llm.Caller{Tenant: tenant})))
	}
}
