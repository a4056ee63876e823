package resources_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/resources"
	"forgewire/infra/monitor"
	"forgewire/realtime"
)

func TestMain(m *testing.M) {
	code := dbtest.Main(m)
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// replica is a whole one, but for the process.
type replica struct {
	url    string
	pool   *pgxpool.Pool
	node   *realtime.Node
	logged *logs
	stop   func()
}

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

// stack is replicas on one database, and the keys of two tenants.
type stack struct {
	url        string
	replicas   []*replica
	acme, evil string // keys
}

// newStack starts two replicas, with Valkey where its URL is given.
func newStack(t testing.TB, valkey string) *stack {
	t.Helper()
	s := &stack{url: dbtest.New(t)}
	for i := range 2 {
		s.replicas = append(s.replicas, start(t, s.url, valkey, fmt.Sprint("replica ", i)))
	}
	s.acme, s.evil = s.key(t, "acme"), s.key(t, "evil")
	return s
}

func (s *stack) key(t testing.TB, tenant string) string {
	t.Helper()
	id, key, hash := access.NewKey()
	if err := db.CreateKey(t.Context(), s.replicas[0].pool, db.Key{ID: id, Hash: hash, Tenant: tenant}); err != nil {
		t.Fatal(err)
	}
	return key
}

func start(t testing.TB, url, valkey, name string) *replica {
	t.Helper()
	l := &logs{}
	logger := slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
	pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: url, MaxConns: 10}))
	namespaces := must(realtime.ParseNamespaces(""))
	node := must(realtime.New(realtime.Config{Pool: pool, ListenURL: url, Logger: logger, Name: name, Version: "test",
		Tokens: realtime.TokenConfig{Secret: "secret of the tests"}, AllowAnonymous: true, MaxConnections: 100, MaxPublicationBytes: 1 << 20,
		Namespaces: namespaces, RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: time.Second}))
	values := must(cache.New(cache.Config{URL: valkey, Bus: node, Log: logger}))
	node.Hear(cache.Topic, values.Announced)
	gate := must(access.New(access.Config{Pool: pool, Logger: logger, ServerKey: "the servers own key", Retention: 24 * time.Hour, Flush: time.Second}))
	node.Hear(access.Topic, gate.Hear)
	serves := must(resources.New(resources.Config{Pool: pool, Cache: values, Queue: node.Queue(), Models: gate.Limit(http.HandlerFunc(parrot)), Logger: logger}))
	node.Overhear(resources.Channels, serves.Overhear)
	routes := must(handlers.Routes(handlers.Config{Monitor: monitor.New(), Node: node, Gate: gate, Resources: serves, Logger: logger, MaxPublicationBytes: 1 << 20, Version: "test"}))
	server := httptest.NewServer(routes)
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{node.Run, values.Run, gate.Run, serves.Run} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	end := sync.OnceFunc(func() {
		server.Close()
		stop()
		parts.Wait()
		pool.Close()
	})
	t.Cleanup(end)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s logged: %s", name, l)
		}
	})
	eventually(t, "a replica listens", func() bool { return node.Epoch("") != "" })
	return &replica{url: server.URL, pool: pool, node: node, logged: l, stop: end}
}

type answer struct {
	*http.Response
	body string
}

// do sends a request; what follows the body are headers, as "Name: value".
func (r *replica) do(t testing.TB, key, method, path, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body)))
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return answer{resp, string(must(io.ReadAll(resp.Body)))}
}

// expect is do, and the status that must come, with what the document says of it; a refusal must be a problem with the code.
func (r *replica) expect(t testing.TB, status int, code, key, method, path, body string, headers ...string) answer {
	t.Helper()
	a := r.do(t, key, method, path, body, headers...)
	if a.StatusCode != status {
		t.Errorf("%s %s: %d, not %d: %s", method, path, a.StatusCode, status, a.body)
		return a
	}
	r.conforms(t, method, path, a)
	if status < 400 {
		return a
	}
	var p struct {
		Type, Title, Code, Detail string
		Status                    int
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.Header.Get("Content-Type") != "application/problem+json" || p.Status != status ||
		p.Code != code || p.Detail == "" || p.Title == "" || p.Type != "about:blank" {
		t.Errorf("%s %s: not the problem %s: %s %s", method, path, code, a.Header.Get("Content-Type"), a.body)
	}
	return a
}

type prompt struct {
	ID, Name, Template, ETag string
	Version                  int
	Newest                   int `json:"newest_version"`
	Variables                []string
	Labels                   map[string]int
}

func (a answer) prompt(t testing.TB) (p prompt) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return p
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}
