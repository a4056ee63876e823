package resources

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/handlers/stream"
)

// patient counts how often a request gets more time.
type patient struct {
	*httptest.ResponseRecorder
	renewed int
}

func (p *patient) SetReadDeadline(time.Time) error  { p.renewed++; return nil }
func (p *patient) SetWriteDeadline(time.Time) error { return nil }

// An import that goes on has as much time for what it passes over as for what it stores.
func TestSkippedRecordsTakeTheirTime(t *testing.T) {
	t.Parallel()
	s := newStepper(t)
	id := newID(datasetPrefix)
	err := db.InTenant(t.Context(), s.pool, "acme", func(tx pgx.Tx) error {
		_, err := db.CreateDataset(t.Context(), tx, "acme", id, "cut")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	queue, err := db.NewQueue(s.pool, logger)
	if err != nil {
		t.Fatal(err)
	}
	values, err := cache.New(cache.Config{LocalBytes: 1 << 20, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	service, err := New(Config{Pool: s.pool, Cache: values, Queue: queue, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	routes := chi.NewRouter()
	service.Mount(routes, func(_ Route, serve http.HandlerFunc) http.Handler { return serve })
	const skipped, kept = 5 * stream.ChunkRows, 10
	r := httptest.NewRequestWithContext(llm.WithCaller(t.Context(), llm.Caller{Tenant: "acme"}), http.MethodPost, "/v1/datasets/"+id+"/cases?skip=5000",
		strings.NewReader(strings.Repeat(`{"variables":{"x":"y"}}`+"\n", skipped+kept)))
	r.Header.Set("Content-Type", stream.NDJSON)
	w := &patient{ResponseRecorder: httptest.NewRecorder()}
	routes.ServeHTTP(w, r)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"cases":10,`) || w.renewed < skipped/stream.ChunkRows {
		t.Errorf("it got time %d times: %d %s", w.renewed, w.Code, w.Body)
	}
}
