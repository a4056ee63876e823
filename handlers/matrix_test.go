package handlers_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/resources"
	"forgewire/infra/monitor"
	"forgewire/realtime"
)

// kind is who may use a route. To add a route, declare it in routesByKind.
type kind int

const (
	open        kind = iota // everybody, with or without a key
	serverKey               // the server's own key alone
	tenantKey               // an API key, or the server's
	clientToken             // a client with a token
	session                 // whoever knows the secret of a session
)

// routesByKind declares every route. A {parameter} stands for something of the tenant "acme", which another tenant
// must be told is not there.
var routesByKind = map[kind][]string{
	open: {
		"GET /livez", "GET /readyz", "GET /api/openapi.json",
		"OPTIONS /connection/sse", "OPTIONS /connection/http_stream", "OPTIONS /emulation", "OPTIONS /v1/channels/{channel}/events",
	},
	serverKey: {
		"GET /metrics", "GET /v1/stats", "GET /api/stats", "POST /api/batch", "POST /api/publish", "POST /api/broadcast", "POST /api/subscribe",
		"POST /api/unsubscribe", "POST /api/refresh", "POST /api/disconnect", "POST /api/presence", "POST /api/presence_stats",
		"POST /api/history", "POST /api/history_remove", "POST /api/channels", "POST /api/info", "POST /api/rpc",
	},
	tenantKey: {
		"GET /v1/runs", "GET /v1/runs/{id}", "GET /v1/usage", "GET /v1/models", "GET /v1/responses/{id}", "GET /v1/cache/stats", "POST /v1/cache/purge",
		"POST /v1/chat/completions", "POST /v1/responses", "POST /v1/embeddings", "POST /v1/completions",
		"GET /v1/runs/export", "GET /v1/prompts", "POST /v1/prompts", "GET /v1/prompts/{id}", "PATCH /v1/prompts/{id}", "DELETE /v1/prompts/{id}",
		"GET /v1/prompts/{id}/versions", "POST /v1/prompts/{id}/versions", "POST /v1/prompts/{id}/render",
		"PUT /v1/prompts/{id}/labels/{label}", "DELETE /v1/prompts/{id}/labels/{label}",
		"GET /v1/datasets", "POST /v1/datasets", "GET /v1/datasets/{id}", "DELETE /v1/datasets/{id}", "GET /v1/datasets/{id}/cases", "POST /v1/datasets/{id}/cases",
		"GET /v1/evaluations", "POST /v1/evaluations", "GET /v1/evaluations/{id}", "DELETE /v1/evaluations/{id}", "POST /v1/evaluations/{id}/cancel",
		"GET /v1/evaluations/{id}/results", "GET /v1/evaluations/{id}/compare",
	},
	clientToken: {"GET /connection/websocket", "GET /connection/sse", "POST /connection/sse", "POST /connection/http_stream", "GET /v1/channels/{channel}/events"},
	session:     {"POST /emulation"},
}

// credentials by name, and which kinds of route let them in, beside the open ones.
var admits = map[string][]kind{
	"none": nil, "wrong": nil, "expired key": nil, "revoked key": nil, "SQL": nil, "prefix of a key": nil,
	"server's key": {serverKey, tenantKey}, "key": {tenantKey}, "other tenant's key": {tenantKey},
	"token": {clientToken}, "expired token": nil, "revoked token": nil, "token of another issuer": nil,
}

// TestEveryRouteAgainstEveryCredential fails where a route lets in whom it must not, or is not declared above.
func TestEveryRouteAgainstEveryCredential(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	kinds := map[string]kind{}
	for k, routes := range routesByKind {
		for _, r := range routes {
			kinds[r] = k
		}
	}
	err := chi.Walk(m.routes, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		k, declared := kinds[method+" "+route]
		if !declared {
			t.Errorf("%s %s is not declared: say in routesByKind who may use it", method, route)
			return nil
		}
		delete(kinds, method+" "+route)
		for name, allowed := range admits {
			want := k == open
			for _, a := range allowed {
				want = want || a == k
			}
			m.try(t, k, method, route, name, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for route := range kinds {
		t.Errorf("%s is declared, and not served", route)
	}
}

// matrix is a replica with every route, and somebody for each credential.
type matrix struct {
	http.Handler
	server      *httptest.Server
	routes      chi.Routes
	credentials map[string]string
	run         string // the id of a run of acme's
}

func newMatrix(t *testing.T, change ...func(*handlers.Config)) *matrix {
	t.Helper()
	dsn := dbtest.New(t)
	pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: dsn}))
	t.Cleanup(pool.Close)
	logger := slog.New(slog.DiscardHandler)
	tokens := realtime.TokenConfig{Secret: "secret of the tests", Issuer: "us"}
	node := must(realtime.New(realtime.Config{Pool: pool, ListenURL: dsn, Logger: logger, Version: "test", Tokens: tokens, MaxConnections: 100,
		MaxPublicationBytes: 1 << 20, Namespaces: must(realtime.ParseNamespaces("")), RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: time.Second}))
	gate := must(access.New(access.Config{Pool: pool, Logger: logger, ServerKey: apiKey, Retention: 24 * time.Hour, Flush: time.Second}))
	values := must(cache.New(cache.Config{LocalBytes: 1 << 20, Log: logger}))
	models := newModels(pool, values)
	serves := must(resources.New(resources.Config{Pool: pool, Cache: values, Queue: node.Queue(), Logger: logger}))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	for _, run := range []func(context.Context) error{node.Run, models.Run, serves.Run} {
		go func() { ended <- run(ctx) }()
	}
	cfg := handlers.Config{Monitor: monitor.New(), Pools: map[string]*pgxpool.Pool{"requests": pool}, Node: node, Gate: gate, LLM: models, Resources: serves, Logger: logger,
		APIKey: apiKey, MaxPublicationBytes: 1 << 20, Version: "test"}
	for _, f := range change {
		f(&cfg)
	}
	handler := must(handlers.Routes(cfg))
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		stop()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		server.Close()
	})
	eventually(t, "the replica listens", func() bool { return node.Epoch("") != "" })
	m := &matrix{Handler: handler, server: server, routes: handler.(chi.Routes), run: "run_abc"}
	m.credentials = credentialsOf(t, pool, tokens)
	if err := node.Revoke(t.Context(), "gone", time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	err := db.InsertRuns(t.Context(), pool, []db.Run{{ID: m.run, Started: time.Now(), Tenant: "acme", Endpoint: "responses", Model: "m", Cache: "hit", Status: 200}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// credentialsOf makes one of each.
func credentialsOf(t *testing.T, pool *pgxpool.Pool, tokens realtime.TokenConfig) map[string]string {
	t.Helper()
	key := func(tenant string, expires *time.Time) (id, key string) {
		id, key, _ = access.NewKey()
		sum := sha256.Sum256([]byte(key))
		if err := db.CreateKey(t.Context(), pool, db.Key{ID: id, Hash: sum[:], Tenant: tenant, Expires: expires}); err != nil {
			t.Fatal(err)
		}
		return id, key
	}
	past := time.Now().Add(-time.Hour)
	_, good := key("acme", nil)
	_, other := key("other", nil)
	_, expired := key("acme", &past)
	id, revoked := key("acme", nil)
	if err := db.RevokeKey(t.Context(), pool, id); err != nil {
		t.Fatal(err)
	}
	_, wrong, _ := access.NewKey()
	foreign := tokens
	foreign.Issuer = "others"
	return map[string]string{
		"none": "", "wrong": wrong, "expired key": expired, "revoked key": revoked, "key": good, "other tenant's key": other, "server's key": apiKey,
		"SQL": "' OR 1=1--", "prefix of a key": almost(good),
		"token": must(tokens.Sign("joe", time.Hour)), "expired token": must(tokens.Sign("joe", -time.Hour)), "revoked token": must(tokens.Sign("gone", time.Hour)),
		"token of another issuer": must(foreign.Sign("joe", time.Hour)),
	}
}

// almost differs from a key in its last letter.
func almost(key string) string {
	last := "a"
	if strings.HasSuffix(key, last) {
		last = "b"
	}
	return key[:len(key)-1] + last
}

// try asks one route with one credential.
func (m *matrix) try(t *testing.T, k kind, method, route, name string, want bool) {
	t.Helper()
	secret := m.credentials[name]
	at := strings.NewReplacer("{id}", m.run, "{channel}", "room", "{label}", "production").Replace(route)
	if k == clientToken {
		if got := m.connects(t, method, at, secret); got != want {
			t.Errorf("%s %s with %s: let in: %v", method, route, name, got)
		}
		return
	}
	req := must(http.NewRequestWithContext(t.Context(), method, m.server.URL+at, strings.NewReader("{}")))
	req.Header.Set("Content-Type", "application/json")
	if secret != "" {
		req.Header.Set("X-API-Key", secret)
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	resp, err := m.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := string(must(io.ReadAll(resp.Body)))
	if secret != "" && strings.Contains(body, secret) {
		t.Errorf("%s %s tells %s: %s", method, route, name, body)
	}
	switch refused := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden; {
	case k == session && resp.StatusCode != http.StatusBadRequest:
		t.Errorf("%s %s without a session: %d", method, route, resp.StatusCode)
	case k != session && refused == want:
		t.Errorf("%s %s with %s: %d %s", method, route, name, resp.StatusCode, body)
	case strings.Contains(route, "/runs/{") && name == "key" && resp.StatusCode != http.StatusOK,
		strings.Contains(route, "{") && name == "other tenant's key" && k == tenantKey && resp.StatusCode != http.StatusNotFound &&
			(method == http.MethodGet || resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusUnprocessableEntity): // a body is judged first
		t.Errorf("%s %s, which is acme's, with %s: %d %s", method, route, name, resp.StatusCode, body)
	}
}

// connects says whether a client with a token gets in. Without a reply it fails.
func (m *matrix) connects(t *testing.T, method, at, token string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	connect := `{"id":1,"connect":{"token":"` + token + `"}}`
	if strings.HasSuffix(at, "/websocket") {
		c, resp, err := websocket.Dial(ctx, m.server.URL+at, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.CloseNow() }()
		if resp.Body != nil {
			defer resp.Body.Close()
		}
		if err := c.Write(ctx, websocket.MessageText, []byte(connect)); err != nil {
			t.Fatal(err)
		}
		_, reply, err := c.Read(ctx)
		if err != nil && websocket.CloseStatus(err) == -1 {
			t.Fatal(err)
		}
		return strings.Contains(string(reply), `"client"`)
	}
	if method == http.MethodGet && !strings.HasSuffix(at, "/events") {
		at += "?cf_connect=" + url.QueryEscape(connect)
	}
	req := must(http.NewRequestWithContext(ctx, method, m.server.URL+at, strings.NewReader(connect)))
	if strings.HasSuffix(at, "/events") {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := m.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 4096)
	n, err := resp.Body.Read(first)
	if n == 0 {
		t.Fatalf("%s %s: %d, and nothing: %v", method, at, resp.StatusCode, err)
	}
	// A namespace that is closed refuses the channel of a client that it knows.
	return strings.Contains(string(first[:n]), `"client"`) || strings.HasSuffix(at, "/events") && resp.StatusCode == http.StatusForbidden && strings.Contains(string(first[:n]), `"code":103`) ||
		strings.HasSuffix(at, "/events") && resp.StatusCode == http.StatusOK
}

// newModels are of an upstream that is not there.
func newModels(pool *pgxpool.Pool, values *cache.Cache) *llm.Service {
	return must(llm.New(llm.Config{Upstreams: must(llm.SingleUpstream("http://127.0.0.1:1/v1", "")), Cache: values, Pool: pool, Log: noLog{},
		Logger: slog.New(slog.DiscardHandler), Mode: llm.CacheAll, MaxMessageBytes: 1 << 20,
		TTLs: llm.TTLs{Prompt: time.Hour, Evaluation: time.Hour, System: time.Hour}, Grace: time.Second}))
}

// noLog holds no answers.
type noLog struct{}

func (noLog) Append(context.Context, string, ...[]byte) error     { return errors.ErrUnsupported }
func (noLog) Read(context.Context, string, int) ([][]byte, error) { return nil, nil }
func (noLog) Follow(string) (llm.Follower, error)                 { return nil, errors.ErrUnsupported }
