package llm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// streaming answers with events as they are given, each flushed.
func streaming(parts ...string) func(int64, http.ResponseWriter, *http.Request, []byte) bool {
	return func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, p := range parts {
			if p == "CUT" {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}
}

func answering(status int, contentType, body string) func(int64, http.ResponseWriter, *http.Request, []byte) bool {
	return func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

const (
	word   = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n"
	finish = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
	theEnd = "data: [DONE]\n\n"
)

// TestFaultsOfAnUpstream: what a client is told, and that nothing of it is stored.
func TestFaultsOfAnUpstream(t *testing.T) {
	big := strings.Repeat("x", 3<<20)
	for _, c := range []struct {
		name   string
		handle func(int64, http.ResponseWriter, *http.Request, []byte) bool
		status int
		want   string // in the body
		stored bool
	}{
		{"cut before anything", streaming("CUT"), 502, `"code":"upstream_`, false},
		{"cut after a word", streaming(word, "CUT"), 200, `"code":"upstream_truncated"`, false},
		{"half an event", streaming(word, "data: {\"id\":"), 200, `"code":"upstream_truncated"`, false},
		{"no [DONE]", streaming(word, finish), 200, `"code":"upstream_truncated"`, false},
		{"[DONE] without its blank line", streaming(word, finish, "data: [DONE]"), 200, "data: [DONE]\n\n", true},
		{"an error in mid-stream", streaming(word, "data: {\"error\":{\"message\":\"boom\"}}\n\n"), 200, `{"error":{"message":"boom"}}`, false},
		{"an error, then [DONE]", streaming(word, finish, "data: {\"error\":{\"message\":\"boom\"}}\n\n", theEnd), 200, "boom", false},
		{"error null", streaming(strings.Replace(word, `"id"`, `"error":null,"id"`, 1), finish, theEnd), 200, "[DONE]", true},
		{"not UTF-8", streaming("data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\"}}]}\n\n", finish, theEnd), 200, "\uFFFD", false},
		{"not JSON", streaming("data: hello\n\n", word, finish, theEnd), 200, "data: hello\n\n", false},
		{"3 MB in a chunk", streaming(strings.Replace(word, `"a"`, `"`+big+`"`, 1), finish, theEnd), 200, big, true},
		{"9 MB in a chunk", streaming(word, strings.Replace(word, `"a"`, `"`+big+big+big+`"`, 1), finish, theEnd), 200, `"code":"upstream_answer_too_large"`, false},
		{"length", streaming(word, strings.Replace(finish, "stop", "length", 1), theEnd), 200, "[DONE]", false},
		{"comments", streaming(": hi\n\n", word, ": there\n\n", finish, theEnd), 200, "[DONE]", true},
		{"a whole answer though a stream was asked for", answering(200, "application/json", `{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}`), 200, `"content":"a"`, true},
		{"200 with an error inside", answering(200, "application/json", `{"error":{"message":"boom","type":"x"}}`), 502, `{"error":{"message":"boom","type":"x"}}`, false},
		{"200 with HTML", answering(200, "text/html", `<html>`), 502, `"code":"upstream_invalid_json"`, false},
		{"200 with nothing", answering(200, "application/json", ``), 502, `"code":"upstream_invalid_json"`, false},
		{"400", answering(400, "application/json", `{"error":{"message":"bad","type":"invalid_request_error"}}`), 400, `{"error":{"message":"bad","type":"invalid_request_error"}}`, false},
		{"401 in HTML", answering(401, "text/html", `<html>secret`), 401, `the upstream answered with status 401`, false},
		{"a redirect", answering(302, "text/html", ``), 502, `"code":"upstream_redirect"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, u := single(t, nil)
			u.handle = c.handle
			got := r.post(t, "chat/completions", ask("fault", streamed))
			if got.status != c.status || !strings.Contains(got.body, c.want) {
				t.Errorf("%d %.300s", got.status, got.body)
			}
			r.settled(t)
			calls := u.calls.Load()
			second := r.post(t, "chat/completions", ask("fault", streamed))
			if stored := strings.Contains(second.header.Get("Cache-Status"), "hit"); stored != c.stored {
				t.Errorf("stored %v, %d calls: %s", stored, u.calls.Load()-calls, second.header.Get("Cache-Status"))
			}
			// A big answer also travels to another replica.
			if c.stored && second.body != got.body {
				t.Errorf("the hit differs: %.200s\n%.200s", second.body, got.body)
			}
		})
	}
}

func TestABigEventReachesTheOtherReplica(t *testing.T) {
	u := newUpstream(t)
	big := strings.Repeat("é\\n", 1<<20)
	g := make(gate)
	u.handle = func(call int64, w http.ResponseWriter, r *http.Request, b []byte) bool {
		streaming(word)(call, w, r, b)
		<-g
		return streaming(strings.Replace(word, `"a"`, `"`+big+`"`, 1), finish, theEnd)(call, w, r, b)
	}
	n := newNetwork(t)
	small := func(c *Config) { c.MaxMessageBytes = 64 << 10 }
	a, b := n.replica(one(t, u), small), n.replica(one(t, u), small)
	near := a.listen(t, ask("big", streamed))
	near.until(t, `"a"`)
	far := make(chan reply, 1)
	go func() { far <- b.post(t, "chat/completions", ask("big", streamed)) }()
	eventually(t, 5*time.Second, "the other joins", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.byID) == 1
	})
	g.open()
	if body := near.end(t); body != (<-far).body || !strings.Contains(body, big) || u.calls.Load() != 1 {
		t.Errorf("%d bytes, %d calls", len(body), u.calls.Load())
	}
}

func TestRetriesAndFallbacks(t *testing.T) {
	bad, good := newUpstream(t), newUpstream(t)
	ups, err := ParseUpstreams(fmt.Sprintf(`{"upstreams":[{"name":"bad","url":"%s/v1","key":"k1","models":["bad-*"]},{"name":"good","url":"%s/v1","key":"k2","models":["good-*"],"prices":{"good-1":{"input":100}}}],
		"aliases":{"smart":["bad/bad-1","good/good-1"]}}`, bad.URL, good.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newNetwork(t).replica(ups, nil)
	smart := func(s string) string { return strings.Replace(ask(s, ""), `"m"`, `"smart"`, 1) }
	for i, c := range []struct {
		status int
		calls  int64 // of the bad one
		ok     bool
	}{{500, 3, true}, {429, 3, true}, {408, 3, true}, {409, 3, true}, {400, 1, false}, {404, 1, false}} {
		r.client.breakers.succeeded(r.client.upstreams.routes("smart")[0])
		bad.calls.Store(0)
		bad.handle = func(call int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("retry-after-ms", "1")
			return answering(c.status, "application/json", `{"error":{"message":"no"}}`)(call, w, nil, nil)
		}
		got := r.post(t, "chat/completions", smart(fmt.Sprint(i)))
		if bad.calls.Load() != c.calls || (got.status == 200) != c.ok || !c.ok && got.status != c.status {
			t.Errorf("%d: %d calls, %+v", c.status, bad.calls.Load(), got)
		}
	}
	if body, _ := good.bodies.Load(int64(1)); !strings.Contains(fmt.Sprint(body), `"model":"good-1"`) {
		t.Errorf("%s", body)
	}
	run := <-r.runs
	if run.Upstream != "good" || run.Model != "smart" || run.CostMicros != 1000 {
		t.Errorf("%+v", run)
	}
	// One failure, and then it works: nobody else is asked.
	bad.calls.Store(0)
	before := good.calls.Load()
	bad.handle = func(call int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if call == 1 {
			return answering(503, "text/plain", "")(call, w, nil, nil)
		}
		return false
	}
	if got := r.post(t, "chat/completions", smart("once")); got.status != 200 || bad.calls.Load() != 2 || good.calls.Load() != before {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", ask("x", "")); got.status != 404 || !strings.Contains(got.body, "model_not_found") {
		t.Errorf("%+v", got)
	}
	if _, err := ParseUpstreams(`{}`, nil); err == nil {
		t.Error("no upstream")
	}
}

func TestAnUpstreamThatAsksForPatienceIsNotWaitedFor(t *testing.T) {
	r, u := single(t, nil)
	u.handle = func(call int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Retry-After", "60")
		return answering(429, "application/json", `{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`)(call, w, nil, nil)
	}
	got := r.post(t, "chat/completions", ask("x", ""))
	if got.status != 429 || got.header.Get("Retry-After") != "60" || !strings.Contains(got.body, "rate_limit_exceeded") || u.calls.Load() != 1 {
		t.Errorf("%d calls: %+v", u.calls.Load(), got)
	}
}

func TestABreakerAndAStaleAnswer(t *testing.T) {
	r, u := single(t, func(c *Config) { c.TTLs.Evaluation = 50 * time.Millisecond })
	old := func() reply {
		return r.post(t, "chat/completions", ask("stale", ""), HeaderClass, ClassEvaluation)
	}
	first := old()
	r.settled(t)
	u.CloseClientConnections()
	u.Listener.Close() // it refuses connections
	eventually(t, 5*time.Second, "the answer is old", func() bool {
		h, fresh, b := r.lookup(context.Background(), mustRead(t, r, ask("stale", "")))
		r.unbid(b)
		return h != nil && !fresh
	})
	got := old()
	if got.status != 200 || got.body != first.body || !strings.Contains(got.header.Get("Cache-Status"), "stale-if-error") || !strings.Contains(got.header.Get("Cache-Status"), "ttl=") {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", ask("stale", ""), HeaderClass, ClassEvaluation, "Cache-Control", "max-age=0"); got.status != 502 {
		t.Errorf("older than it may be: %+v", got)
	}
	if got := r.post(t, "chat/completions", ask("stale", ""), HeaderClass, ClassEvaluation, "Cache-Control", "max-age=100"); got.body != first.body {
		t.Errorf("%+v", got)
	}
	// Each counts once, however often it was tried.
	if left := r.client.breakers.left(r.client.upstreams.routes("m")[0], time.Now()); left > 0 {
		t.Errorf("left alone for %s after three failures", left)
	}
	for i := range breakAfter - 3 {
		if got := r.post(t, "chat/completions", ask(fmt.Sprint(i), "")); got.status != 502 && got.status != 503 {
			t.Errorf("%+v", got)
		}
	}
	begun := time.Now()
	got = r.post(t, "chat/completions", ask("fast", ""))
	if got.status != 503 || !strings.Contains(got.body, "upstream_unavailable") || got.header.Get("Retry-After") == "" || time.Since(begun) > 200*time.Millisecond {
		t.Errorf("%s: %+v", time.Since(begun), got)
	}
}

// One upstream's timeout is not the next one's: who hangs is left for it, and counted.
func TestAnUpstreamThatHangsIsLeftForTheNext(t *testing.T) {
	bad, good := newUpstream(t), newUpstream(t)
	ups, err := ParseUpstreams(fmt.Sprintf(`{"upstreams":[{"name":"bad","url":"%s/v1","key":"k1","timeout":"100ms"},{"name":"good","url":"%s/v1","key":"k2"}],
		"aliases":{"smart":["bad/bad-1","good/good-1"],"alone":["bad/bad-1"]}}`, bad.URL, good.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newNetwork(t).replica(ups, nil)
	bad.handle = func(_ int64, _ http.ResponseWriter, req *http.Request, _ []byte) bool {
		<-req.Context().Done()
		return true
	}
	named := func(model, prompt, more string) string {
		return strings.Replace(ask(prompt, more), `"m"`, `"`+model+`"`, 1)
	}
	for i := range breakAfter {
		more := ""
		if i%2 > 0 {
			more = streamed
		}
		if got := r.post(t, "chat/completions", named("smart", fmt.Sprint(i), more)); got.status != 200 || bad.calls.Load() != int64(i+1) {
			t.Errorf("asked %d times: %+v", bad.calls.Load(), got)
		}
	}
	if got := r.post(t, "chat/completions", named("alone", "broken", "")); got.status != 503 || !strings.Contains(got.body, "upstream_unavailable") {
		t.Errorf("%+v", got)
	}
	r.client.breakers.succeeded(r.client.upstreams.routes("alone")[0])
	if got := r.post(t, "chat/completions", named("alone", "mute", "")); got.status != 504 || !strings.Contains(got.body, "upstream_timeout") {
		t.Errorf("%+v", got)
	}
}

// What is broken for one model, or only in the list of them, is in nobody else's way.
func TestABrokenModelIsInNobodysWay(t *testing.T) {
	r, u := single(t, nil)
	u.handle = func(call int64, w http.ResponseWriter, req *http.Request, b []byte) bool {
		if strings.HasSuffix(req.URL.Path, "/models") || bytes.Contains(b, []byte(`"poison"`)) {
			w.Header().Set("Retry-After", "60") // or it is tried again
			return answering(500, "text/plain", "")(call, w, req, b)
		}
		return false
	}
	for i := range 2 * breakAfter {
		r.do(context.Background(), t, "GET", "models", "")
		r.post(t, "chat/completions", strings.Replace(ask(fmt.Sprint(i), ""), `"m"`, `"poison"`, 1))
	}
	if got := r.post(t, "chat/completions", ask("fine", "")); got.status != 200 {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", strings.Replace(ask("more", ""), `"m"`, `"poison"`, 1)); got.status != 503 {
		t.Errorf("%+v", got)
	}
	// As many names as a caller likes are not remembered.
	for i := range 2 * maxBreaks {
		r.client.breakers.failed(route{&r.client.upstreams.List[0], fmt.Sprint(i)}, time.Now())
	}
	if n := len(r.client.breakers.failing); n > maxBreaks {
		t.Errorf("%d are remembered", n)
	}
}

// mustRead understands a chat request as the service does.
func mustRead(t testing.TB, r *replica, body string) *request {
	t.Helper()
	hr, err := http.NewRequestWithContext(WithCaller(context.Background(), Caller{Tenant: "default"}), "POST", "/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req, refusal := r.read(nopWriter{}, hr, chat)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return req
}

type nopWriter struct{}

func (nopWriter) Header() http.Header         { return http.Header{} }
func (nopWriter) Write(b []byte) (int, error) { return len(b), nil }
func (nopWriter) WriteHeader(int)             {}

func TestAnUpstreamThatIsSilent(t *testing.T) {
	u := newUpstream(t)
	ups := one(t, u)
	ups.List[0].IdleTimeout, ups.List[0].Timeout = 100*time.Millisecond, 300*time.Millisecond
	r := newNetwork(t).replica(ups, nil)
	u.handle = func(call int64, w http.ResponseWriter, req *http.Request, b []byte) bool {
		if bytes.Contains(b, []byte("mute")) {
			<-req.Context().Done()
			return true
		}
		streaming(word)(call, w, req, b)
		<-req.Context().Done()
		return true
	}
	if got := r.post(t, "chat/completions", ask("pause", streamed)); !strings.Contains(got.body, `"code":"upstream_timeout"`) {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", ask("mute", "")); got.status != 504 || !strings.Contains(got.body, `"code":"upstream_timeout"`) {
		t.Errorf("%+v", got)
	}
}

func TestPassThroughKeys(t *testing.T) {
	u := newUpstream(t)
	keys := make(chan string, 10)
	u.handle = func(_ int64, _ http.ResponseWriter, r *http.Request, _ []byte) bool {
		keys <- r.Header.Get("Authorization") + "," + r.Header.Get("Openai-Organization") + r.Header.Get("Cookie") + r.Header.Get("X-Tenant")
		return false
	}
	ups := one(t, u)
	ups.List[0].Key = PassThrough
	r := newNetwork(t).replica(ups, nil)
	if got := r.post(t, "chat/completions", ask("x", ""), "Authorization", "Bearer forgewire-key"); got.status != 401 || !strings.Contains(got.body, "upstream_key_missing") {
		t.Errorf("%+v", got)
	}
	for i, c := range []struct{ key, org string }{{"one", ""}, {"two", ""}, {"one", "org"}, {"one", ""}} {
		got := r.post(t, "chat/completions", ask("x", ""), "Authorization", "Bearer "+c.key, "Forgewire-Key", "ours", "Openai-Organization", c.org, "Cookie", "c=1")
		r.settled(t)
		if i == 3 {
			if !strings.Contains(got.header.Get("Cache-Status"), "hit") {
				t.Errorf("%+v", got)
			}
		} else if k := <-keys; k != "Bearer "+c.key+","+c.org {
			t.Errorf("the upstream got %q", k)
		}
	}
	// Our own key is the one that is sent otherwise.
	r2 := newNetwork(t).replica(one(t, u), nil)
	r2.post(t, "chat/completions", ask("x", ""), "Authorization", "Bearer secret", "Openai-Organization", "org")
	if k := <-keys; k != "Bearer sk-upstream," {
		t.Errorf("the upstream got %q", k)
	}
}

func TestEndpoints(t *testing.T) {
	r, u := single(t, nil)
	const response = `{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[]}]}],"usage":{"input_tokens":1,"output_tokens":2}}`
	u.handle = func(call int64, w http.ResponseWriter, q *http.Request, b []byte) bool {
		switch {
		case strings.HasSuffix(q.URL.Path, "/embeddings"):
			return answering(200, "application/json", `{"object":"list","data":[{"index":0,"embedding":[0.1]}],"usage":{"prompt_tokens":3}}`)(call, w, q, b)
		case strings.HasSuffix(q.URL.Path, "/models"):
			return answering(200, "application/json", `{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x"},{"id":"n"}]}`)(call, w, q, b)
		case strings.Contains(string(b), `"stream":true`):
			return streaming("event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\"}}\n\n",
				"event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":1,\"response\":"+response+"}\n\n")(call, w, q, b)
		}
		return answering(200, "application/json", response)(call, w, q, b)
	}
	for _, c := range []struct {
		path, body string
		want       []string
	}{
		{"embeddings", `{"model":"m","input":"a"}`, []string{`"embedding":[0.1]`}},
		{"responses", `{"model":"m","input":"s","stream":true}`, []string{"event: response.created\nid: 0\ndata: ", "event: response.completed\nid: 1\n"}},
		{"responses", `{"model":"m","input":"w"}`, []string{response}},
	} {
		first := r.post(t, c.path, c.body)
		r.settled(t)
		hit := r.post(t, c.path, c.body)
		for _, w := range c.want {
			if !strings.Contains(first.body, w) || hit.body != first.body || !strings.Contains(hit.header.Get("Cache-Status"), "hit") {
				t.Errorf("%s: %q\n%q", c.path, first.body, hit.body)
			}
		}
	}
	// Each form from the other.
	if got := r.post(t, "responses", `{"model":"m","input":"s"}`); got.body != response {
		t.Errorf("%s", got.body)
	}
	if got := r.post(t, "responses", `{"model":"m","input":"w","stream":true}`); !strings.Contains(got.body, `"delta":"Hi"`) || !strings.Contains(got.body, "event: response.completed\n") || strings.Contains(got.body, "[DONE]") {
		t.Errorf("%s", got.body)
	}
	for _, body := range []string{`{"model":"m","input":"b","background":true}`, `{"model":"m","input":"b","conversation":"c"}`} {
		for range 2 {
			if got := r.post(t, "responses", body); !strings.Contains(got.header.Get("Cache-Status"), "bypass") {
				t.Errorf("%s: %+v", body, got.header)
			}
		}
	}
	if got := r.do(context.Background(), t, "GET", "models", "", "X-Tenant", "t", "X-Models", "m"); got.body != `{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x"}]}`+"\n" {
		t.Errorf("%+v", got)
	}
	if got := r.do(context.Background(), t, "GET", "cache/stats", ""); !strings.Contains(got.body, `"hit_rate":50`) && !strings.Contains(got.body, `"hits":`) {
		t.Errorf("%+v", got)
	}
	u.handle = nil
	u.Listener.Close()
	u.CloseClientConnections()
	if got := r.do(context.Background(), t, "GET", "models", ""); got.status != 502 {
		t.Errorf("%+v", got)
	}
}

func TestAClientThatStopsReadingDelaysNobody(t *testing.T) {
	u := newUpstream(t)
	u.handle = func(call int64, w http.ResponseWriter, q *http.Request, b []byte) bool {
		parts := make([]string, 0, 200)
		for range 120 {
			parts = append(parts, strings.Replace(word, `"a"`, `"`+strings.Repeat("x", 64<<10)+`"`, 1))
		}
		return streaming(append(parts, finish, theEnd)...)(call, w, q, b)
	}
	r := newNetwork(t).replica(one(t, u), nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stuck, err := r.open(ctx, "POST", "chat/completions", ask("stuck", streamed))
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Body.Close() // nobody reads it
	got := r.post(t, "chat/completions", ask("stuck", streamed))
	if _, done := said(t, got.body); !done || u.calls.Load() != 1 {
		t.Errorf("%d bytes, %d calls", len(got.body), u.calls.Load())
	}
	r.settled(t)
}

// TestNothingOfAPromptIsLogged runs through failures of all kinds with a word that must not appear.
func TestNothingOfAPromptIsLogged(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	r, u := single(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	const secret = "tangerine"
	for _, h := range []func(int64, http.ResponseWriter, *http.Request, []byte) bool{nil, streaming(strings.Replace(word, `"a"`, `"`+secret+`"`, 1), "CUT"),
		answering(500, "text/plain", secret), answering(200, "text/html", secret)} {
		u.handle = h
		got := r.post(t, "chat/completions", ask(secret, streamed), "Cache-Control", "no-cache")
		if h != nil && strings.Contains(got.body, "message") && strings.Contains(got.body[strings.Index(got.body, "message"):], secret) {
			t.Errorf("the error says it: %s", got.body)
		}
		r.settled(t)
	}
	r.post(t, "chat/completions", `{"model":"m","messages":"`+secret+`","messages":1}`)
	r.stop()
	close(r.runs)
	for run := range r.runs {
		if strings.Contains(fmt.Sprintf("%+v", run), secret) {
			t.Errorf("%+v", run)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(log.String(), secret) {
		t.Error(log.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
