package access

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/handlers/problem"
	"forgewire/realtime"
)

const serverKey = "the-servers-own-key"

func TestMain(m *testing.M) {
	code := dbtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func newPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := db.NewPool(t.Context(), db.PoolConfig{URL: url, MaxConns: 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// logs are what a gate logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// replica is a gate, what it serves, and what it logged.
type replica struct {
	*Gate
	pool *pgxpool.Pool
	http http.Handler
	logs *logs
	stop func() // ends Run, and waits for it; the end of the test does so too
}

func newReplica(t testing.TB, pool *pgxpool.Pool) *replica {
	t.Helper()
	l := &logs{}
	g, err := New(Config{Pool: pool, Logger: slog.New(slog.NewTextHandler(l, nil)), ServerKey: serverKey, Retention: 24 * time.Hour, BodyRetention: 24 * time.Hour, Flush: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	r := chi.NewRouter()
	r.Use(g.Authenticate)
	r.With(g.Limit).Post("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		c, _ := llm.CallerFrom(r.Context())
		_ = json.NewEncoder(w).Encode(c)
	})
	r.Get("/v1/runs", g.ListRuns)
	r.Get("/v1/runs/{id}", g.GetRun)
	r.Get("/v1/usage", g.Usage)
	return &replica{Gate: g, pool: pool, http: r, logs: l, stop: stop}
}

// listen lets gates hear what is announced: each has a node of its own, as in a replica.
func listen(t *testing.T, url string, replicas ...*replica) {
	t.Helper()
	namespaces, err := realtime.ParseNamespaces("")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replicas {
		node, err := realtime.New(realtime.Config{Pool: r.pool, ListenURL: url, Logger: slog.New(slog.NewTextHandler(r.logs, nil)),
			AllowAnonymous: true, Namespaces: namespaces, MaxConnections: 1, MaxPublicationBytes: 1024, RetentionAge: time.Hour,
			RetentionBytes: 1 << 30, ShutdownTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		node.Hear(Topic, r.Hear)
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- node.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the replica listens", func() bool { return node.Ready(t.Context()) == nil })
	}
}

// createKey makes a key of tenant acme, changed by change.
func createKey(t testing.TB, pool db.Querier, change func(*db.Key)) (id, key string) {
	t.Helper()
	id, key, sum := NewKey()
	k := db.Key{ID: id, Hash: sum, Tenant: "acme"}
	if change != nil {
		change(&k)
	}
	if err := db.CreateKey(t.Context(), pool, k); err != nil {
		t.Fatal(err)
	}
	return id, key
}

func (r *replica) do(method, path string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.http.ServeHTTP(w, req)
	return w
}

func (r *replica) ask(key string) *httptest.ResponseRecorder {
	return r.do("POST", "/v1/chat/completions", "Authorization", "Bearer "+key)
}

func (r *replica) get(key, path string) *httptest.ResponseRecorder {
	return r.do("GET", path, "Authorization", "Bearer "+key)
}

// code returns the code of an error: a problem, or in OpenAI's form.
func code(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	if w.Header().Get("Content-Type") == problem.ContentType {
		var p problem.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Detail == "" || p.Status != w.Code {
			t.Fatalf("%d: not a problem: %s (%v)", w.Code, w.Body, err)
		}
		return p.Code
	}
	var body struct {
		Error struct {
			Message, Type, Code string
			Param               *string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error.Message == "" || body.Error.Type == "" {
		t.Fatalf("%d: not an error of OpenAI's form: %s (%v)", w.Code, w.Body, err)
	}
	return body.Error.Code
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}
