package handlers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/resources"
	"forgewire/infra/monitor"
	"forgewire/realtime"
)

const apiKey = "a key of the tests"

// cluster is two replicas on one database. Each reply of their API is compared with the OpenAPI document.
type cluster struct {
	servers []*httptest.Server
	routes  []chi.Routes
	nodes   []*realtime.Node

	mu      sync.Mutex
	schemas *jsonschema.Compiler
}

func newCluster(t *testing.T, change func(*handlers.Config)) *cluster {
	t.Helper()
	return newClusterOf(t, realtime.TokenConfig{Secret: "secret of the tests"}, change)
}

func newClusterOf(t *testing.T, tokens realtime.TokenConfig, change func(*handlers.Config)) *cluster {
	t.Helper()
	url := dbtest.New(t)
	c := &cluster{schemas: jsonschema.NewCompiler()}
	for i := range 2 {
		pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: url}))
		t.Cleanup(pool.Close)
		logger := slog.New(slog.DiscardHandler)
		node := must(realtime.New(realtime.Config{Pool: pool, ListenURL: url, Logger: logger, Name: fmt.Sprint("replica ", i), Version: "test",
			Tokens: tokens, AllowAnonymous: true, MaxConnections: 100, MaxPublicationBytes: 1 << 20,
			Namespaces:   must(realtime.ParseNamespaces(`{"namespaces":[{"name":"room","presence":true,"join_leave":true},{"name":"cursor","ephemeral":true}]}`)),
			RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: time.Second}))
		gate := must(access.New(access.Config{Pool: pool, Logger: logger, ServerKey: apiKey, Retention: 24 * time.Hour, Flush: time.Second}))
		node.Hear(access.Topic, gate.Hear)
		values := must(cache.New(cache.Config{Bus: node, Log: logger}))
		serves := must(resources.New(resources.Config{Pool: pool, Cache: values, Queue: node.Queue(), Logger: logger}))
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- node.Run(ctx) }()
		cfg := handlers.Config{Monitor: monitor.New(), Pools: map[string]*pgxpool.Pool{"requests": pool}, Node: node, Gate: gate, Resources: serves, Logger: logger, APIKey: apiKey, MaxPublicationBytes: 1 << 20, Version: "test"}
		if change != nil {
			change(&cfg)
		}
		routes := must(handlers.Routes(cfg))
		server := httptest.NewServer(routes)
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			server.Close()
			http.DefaultClient.CloseIdleConnections()
		})
		c.nodes, c.servers, c.routes = append(c.nodes, node), append(c.servers, server), append(c.routes, routes.(chi.Routes))
	}
	for _, n := range c.nodes {
		eventually(t, "a replica listens", func() bool { return n.Epoch("") != "" })
	}
	_, body := c.request(t, 0, http.MethodGet, "/api/openapi.json", "", "")
	if err := c.schemas.AddResource("openapi.json", must(jsonschema.UnmarshalJSON(strings.NewReader(body)))); err != nil {
		t.Fatal(err)
	}
	return c
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
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func (c *cluster) request(t testing.TB, replica int, method, path, key, body string) (status int, reply string) {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), method, c.servers[replica].URL+path, strings.NewReader(body)))
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, string(must(io.ReadAll(resp.Body)))
}

// call calls the API, and compares what comes back, and what was sent if it was understood, with the document.
func (c *cluster) call(t testing.TB, replica int, method, body string) (status int, reply string) {
	t.Helper()
	status, reply = c.request(t, replica, http.MethodPost, "/api/"+method, apiKey, body)
	c.conforms(t, fmt.Sprintf("/paths/~1api~1%s/post/responses/%d/content/application~1json/schema", method, status), reply)
	if status == http.StatusOK && !strings.Contains(reply, `"code":107`) {
		c.conforms(t, fmt.Sprintf("/paths/~1api~1%s/post/requestBody/content/application~1json/schema", method), body)
	}
	return status, reply
}

func (c *cluster) conforms(t testing.TB, at, body string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	schema, err := c.schemas.Compile("openapi.json#" + at)
	if err != nil {
		t.Errorf("the document has no %s: %v", at, err)
		return
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(body)))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		t.Errorf("%s is not as %s says: %v", body, at, err)
	}
}

// socket is a client of a replica.
type socket struct {
	ws *websocket.Conn
	id string
}

// connect connects a user and subscribes it to channels.
func (c *cluster) connect(t testing.TB, replica int, user string, channels ...string) *socket {
	t.Helper()
	return c.connectWith(t, replica, must(realtime.SignToken("secret of the tests", user, time.Hour)), channels...)
}

// connectWith connects with a token.
func (c *cluster) connectWith(t testing.TB, replica int, token string, channels ...string) *socket {
	t.Helper()
	ws, resp, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(c.servers[replica].URL, "http")+"/connection/websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(-1)
	s := &socket{ws: ws}
	var hello struct{ Connect struct{ Client string } }
	if err = json.Unmarshal(s.do(t, fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, token)), &hello); err != nil || hello.Connect.Client == "" {
		t.Fatalf("connect: %v", err)
	}
	s.id = hello.Connect.Client
	for _, ch := range channels {
		if r := s.do(t, fmt.Sprintf(`{"id":2,"subscribe":{"channel":%q}}`, ch)); bytes.Contains(r, []byte("error")) {
			t.Fatalf("subscribe to %s: %s", ch, r)
		}
	}
	return s
}

// push waits for a publication.
func (s *socket) push(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		_, b, err := s.ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"push":`)) {
			return string(b)
		}
	}
}

func (s *socket) do(t testing.TB, command string) []byte {
	t.Helper()
	if err := s.ws.Write(t.Context(), websocket.MessageText, []byte(command)); err != nil {
		t.Fatal(err)
	}
	for {
		_, b, err := s.ws.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"id":`)) {
			return b
		}
	}
}

// closed waits until the server closes the connection and returns the code.
func (s *socket) closed(t testing.TB) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, _, err := s.ws.Read(ctx); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}
