package llm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/db/dbtest"
)

// memoryLog is what the services of a test share in place of the realtime log, which this package may not import; the
// tests of package handlers have the real one.
type memoryLog struct {
	mu       sync.Mutex
	channels map[string][][]byte
	changed  chan struct{}
	fails    bool
}

func newMemoryLog() *memoryLog {
	return &memoryLog{channels: map[string][][]byte{}, changed: make(chan struct{})}
}

var errTestLog = errors.New("the log is away")

func (l *memoryLog) Append(_ context.Context, channel string, messages ...[]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails {
		return errTestLog
	}
	for _, m := range messages {
		if !json.Valid(m) || bytes.ContainsAny(m, "\r\n") {
			panic("a message that the log would refuse: " + string(m))
		}
		l.channels[channel] = append(l.channels[channel], bytes.Clone(m))
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *memoryLog) Read(_ context.Context, channel string, most int) ([][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails {
		return nil, errTestLog
	}
	all := l.channels[channel]
	return all[:min(most, len(all))], nil
}

func (l *memoryLog) Follow(channel string) (Follower, error) {
	return &memoryFollower{log: l, channel: channel}, nil
}

type memoryFollower struct {
	log     *memoryLog
	channel string
	at      int
}

func (f *memoryFollower) Next(ctx context.Context) ([][]byte, error) {
	for {
		f.log.mu.Lock()
		m, changed := f.log.channels[f.channel], f.log.changed
		f.log.mu.Unlock()
		if f.at < len(m) {
			m = m[f.at:]
			f.at += len(m)
			return m, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *memoryFollower) Close() error { return nil }

// upstream is a tiny model. Its answers are words, with the number of the call in the last one.
type upstream struct {
	*httptest.Server
	calls atomic.Int64
	// before each word of a stream: returns false to cut the connection
	word func(call int64, i int) bool
	// handle, if set, answers instead.
	handle func(call int64, w http.ResponseWriter, r *http.Request, body []byte) bool
	bodies sync.Map
}

var words = []string{"alpha", " béta", " 😀", " delta"}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	call := u.calls.Add(1)
	u.bodies.Store(call, string(body))
	if u.handle != nil && u.handle(call, w, r, body) {
		return
	}
	var q struct {
		Stream  bool `json:"stream"`
		Options struct {
			Usage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	_ = json.Unmarshal(body, &q)
	id := fmt.Sprintf("chatcmpl-%d", call)
	if !q.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%q,"object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":4}}`, id, strings.Join(words, "")+u.last(call))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(delta, finish string) {
		fmt.Fprintf(w, "data: {\"id\":%q,\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":%s,\"finish_reason\":%s}]}\n\n", id, delta, finish)
		_ = http.NewResponseController(w).Flush()
	}
	for i, word := range append(append([]string{}, words...), u.last(call)) {
		if u.word != nil && !u.word(call, i) {
			panic(http.ErrAbortHandler)
		}
		send(fmt.Sprintf(`{"content":%q}`, word), "null")
	}
	send("{}", `"stop"`)
	if q.Options.Usage {
		fmt.Fprintf(w, "data: {\"id\":%q,\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":4}}\n\n", id)
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func (u *upstream) last(call int64) string { return fmt.Sprintf(" #%d", call) }

// replica is a Service behind HTTP.
type replica struct {
	*Service
	http *httptest.Server
	runs chan Run
	stop func()

	inside atomic.Int64 // requests that are being answered
}

// network is what the replicas of a test share.
type network struct {
	t     testing.TB
	url   string
	log   *memoryLog
	hears []func([]byte)
}

// Announce implements Bus.
func (n *network) Announce(_ context.Context, _ string, data []byte) error {
	for _, f := range n.hears {
		f(data)
	}
	return nil
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, url: dbtest.New(t), log: newMemoryLog()}
}

func (n *network) replica(upstreams Upstreams, change func(*Config)) *replica {
	n.t.Helper()
	pool, err := db.NewPool(context.Background(), db.PoolConfig{URL: n.url})
	if err != nil {
		n.t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	values, err := cache.New(cache.Config{LocalBytes: 16 << 20, Log: logger})
	if err != nil {
		n.t.Fatal(err)
	}
	runs := make(chan Run, 1000)
	cfg := Config{Upstreams: upstreams, Cache: values, Pool: pool, Log: n.log, LogKept: time.Hour, Bus: n, Logger: logger, Mode: CacheAll, MaxMessageBytes: 1 << 20,
		TTLs: TTLs{Prompt: time.Hour, Evaluation: time.Hour, System: time.Hour}, Record: func(r Run) { runs <- r }, Grace: 200 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.hears = append(n.hears, s.Announced)
	mux := http.NewServeMux()
	for _, path := range []string{"chat/completions", "responses", "embeddings", "completions"} {
		mux.HandleFunc("POST /v1/"+path, s.Handler(path))
	}
	mux.HandleFunc("GET /v1/responses/{id}", func(w http.ResponseWriter, r *http.Request) { s.Resume(w, r, r.PathValue("id")) })
	mux.HandleFunc("GET /v1/models", s.ServeModels)
	mux.HandleFunc("GET /v1/cache/stats", s.ServeStats)
	mux.HandleFunc("POST /v1/cache/purge", s.ServePurge)
	rep := &replica{Service: s, runs: runs}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rep.inside.Add(1)
		defer rep.inside.Add(-1)
		if tenant := r.Header.Get("X-Tenant"); tenant != "none" {
			c := Caller{Tenant: "default"}
			if tenant != "" {
				c = Caller{Tenant: tenant, KeyID: "k", Shared: r.Header.Get("X-Shared") != ""}
			}
			c.LogBodies = r.Header.Get("X-Log") != ""
			if m := r.Header.Get("X-Models"); m != "" {
				c.Models = strings.Split(m, ",")
			}
			r = r.WithContext(WithCaller(r.Context(), c))
		}
		mux.ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = values.Run(ctx) })
	parts.Go(func() { _ = s.Run(ctx) })
	var once sync.Once
	rep.http = srv
	rep.stop = func() {
		once.Do(func() {
			cancel()
			parts.Wait()
			srv.Close()
			pool.Close()
		})
	}
	n.t.Cleanup(rep.stop)
	return rep
}

// single makes a network of one replica and one upstream.
func single(t testing.TB, change func(*Config)) (*replica, *upstream) {
	u := newUpstream(t)
	return newNetwork(t).replica(one(t, u), change), u
}

func one(t testing.TB, u *upstream) Upstreams {
	t.Helper()
	ups, err := SingleUpstream(u.URL+"/v1", "sk-upstream")
	if err != nil {
		t.Fatal(err)
	}
	ups.List[0].Prices = map[string]Price{"*": {Input: 1, Output: 2}}
	return ups
}

// reply is a response that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r *replica) post(t testing.TB, path, body string, headers ...string) reply {
	t.Helper()
	return r.do(context.Background(), t, "POST", path, body, headers...)
}

func (r *replica) open(ctx context.Context, method, path, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.http.URL+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return r.http.Client().Do(req)
}

func (r *replica) do(ctx context.Context, t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	resp, err := r.open(ctx, method, path, body, headers...)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func ask(prompt string, more string) string {
	return fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}]%s}`, prompt, more)
}

const streamed = `,"stream":true`

// said is the text of a stream, and whether it ended as it should.
func said(t testing.TB, body string) (text string, done bool) {
	t.Helper()
	sc := bufio.NewScanner(strings.NewReader(body))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return text, true
		}
		var c struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			t.Errorf("%s: %v", data, err)
		}
		for _, ch := range c.Choices {
			text += ch.Delta.Content
		}
	}
	return text, false
}

func content(t testing.TB, body string) string {
	t.Helper()
	var c struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal([]byte(body), &c); err != nil || len(c.Choices) == 0 {
		t.Errorf("%q: %v", body, err)
		return ""
	}
	return c.Choices[0].Message.Content
}

func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
