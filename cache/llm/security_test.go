package llm

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// A small text must not become a large tree.
func TestABodyOfManyValuesIsRefused(t *testing.T) {
	r, u := single(t, nil)
	bomb := `{"model":"m","input":[` + strings.Repeat("1,", 4<<20) + `1]}`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := r.post(t, "embeddings", bomb)
	runtime.ReadMemStats(&after)
	if got.status != http.StatusBadRequest || !strings.Contains(got.body, "body_too_large") || u.calls.Load() > 0 {
		t.Errorf("%d %s, the upstream was asked %d times", got.status, got.body, u.calls.Load())
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 512<<20 {
		t.Errorf("it took %d MiB", used>>20)
	}
	if got := r.post(t, "embeddings", `{"model":"m","input":[`+strings.Repeat("1,", 300_000)+`1]}`); got.status == http.StatusBadRequest {
		t.Errorf("as many tokens as an upstream takes: %s", got.body)
	}
}

// Nor where nobody weighs it: a request to resume has next to no body.
func TestABodyThatResumesIsSmall(t *testing.T) {
	r, _ := single(t, nil)
	for body, want := range map[string]int{
		`[` + strings.Repeat("0,", 1<<20) + `0]`:                   http.StatusRequestEntityTooLarge,
		`{"stream":true,"x":"` + strings.Repeat("x", 4<<10) + `"}`: http.StatusRequestEntityTooLarge,
		`{"stream":1}`: http.StatusBadRequest, `[]`: http.StatusBadRequest, `{`: http.StatusBadRequest,
		`{"stream":true}`: http.StatusNotFound, `{"stream":null}`: http.StatusNotFound, `{}`: http.StatusNotFound,
	} {
		if got := r.do(t.Context(), t, "GET", "responses/fw_x", body); got.status != want {
			t.Errorf("%.40s: %d %s, want %d", body, got.status, got.body, want)
		}
	}
}

// Many numbers, as embeddings are, are no large tree; and of what is one, its own client alone gets the text.
func TestAnAnswerOfManyValuesIsNoLargeTree(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		kept  bool
	}{"numbers": {strings.Repeat("1,", 1<<20) + "1", true}, "objects": {strings.Repeat("{},", 1<<20) + "{}", false}} {
		r, u := single(t, nil)
		answer := `{"object":"list","data":[{"embedding":[` + c.value + `]}]}`
		u.handle = answering(200, "application/json", answer)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := r.post(t, "embeddings", `{"model":"m","input":"x"}`)
		runtime.ReadMemStats(&after)
		if got.status != 200 || got.body != answer {
			t.Errorf("%s: %d, %d bytes", name, got.status, len(got.body))
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
			t.Errorf("%s: it took %d MiB", name, used>>20)
		}
		r.settled(t)
		again := r.post(t, "embeddings", `{"model":"m","input":"x"}`)
		if hit := strings.Contains(again.header.Get("Cache-Status"), "hit"); hit != c.kept {
			t.Errorf("%s: kept: %v", name, hit)
		}
	}
}

// A flight outlives its client, for whom the body was weighed.
func TestAFlightKeepsNoBody(t *testing.T) {
	for _, logs := range []bool{false, true} {
		u := newUpstream(t)
		g := make(gate)
		u.word = func(_ int64, i int) bool { return i == 0 || g.word(0, i) }
		r := newNetwork(t).replica(one(t, u), nil)
		header := ""
		if logs {
			header = "1"
		}
		l := r.listen(t, ask(strings.Repeat("large ", 1<<20), streamed), "X-Log", header)
		l.until(t, "alpha")
		l.cancel()
		r.mu.Lock()
		for _, f := range r.byID {
			f.now(0) // what the flight did before its event is seen
			if b := f.req.body; len(b.raw) > MaxLoggedBytes+1 || (len(b.raw) > 0) != logs || b.members != nil {
				t.Errorf("%d bytes are kept, %d members", len(b.raw), len(b.members))
			}
		}
		r.mu.Unlock()
		g.open()
		r.settled(t)
		if run := <-r.runs; (run.Bodies != nil) != logs || logs && (!run.Bodies.Cut || len(run.Bodies.Request) != MaxLoggedBytes) {
			t.Errorf("%+v", run)
		}
	}
}

// An upstream may quote the key that it was sent. Nobody is told it, and the log neither.
func TestUpstreamsKeyIsNotToldOfErrors(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"a status": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":{"message":"no such key: sk-upstream"}}`)
		},
		"an object": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"error":{"message":"no such key: sk-upstream"}}`)
		},
		"an event": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"error\":{\"message\":\"no such key: sk-upstream\"}}\n\n")
		},
	} {
		u := newUpstream(t)
		u.handle = func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool { answer(w); return true }
		n := newNetwork(t)
		r := n.replica(one(t, u), nil)
		got := r.post(t, "chat/completions", ask("key", streamed))
		if !strings.Contains(got.body, "no such key: [key]") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		r.settled(t)
		r.stop()
		for channel, messages := range n.log.channels {
			for _, m := range messages {
				if strings.Contains(string(m), "sk-upstream") {
					t.Errorf("%s: the log has it: %s %s", name, channel, m)
				}
			}
		}
	}
}

// What others ask for and pay is theirs to know.
func TestStatsAreATenantsOwn(t *testing.T) {
	r, _ := single(t, nil)
	for _, tenant := range []string{"a", "b"} {
		r.post(t, "chat/completions", strings.Replace(ask("stats", ""), `"m"`, `"model-of-`+tenant+`"`, 1), "X-Tenant", tenant)
	}
	r.settled(t)
	for tenant, want := range map[string][2]bool{"a": {true, false}, "b": {false, true}, "": {true, true}, "c": {}} {
		got := r.do(t.Context(), t, "GET", "cache/stats", "", "X-Tenant", tenant).body
		if strings.Contains(got, "model-of-a") != want[0] || strings.Contains(got, "model-of-b") != want[1] {
			t.Errorf("%q sees %s", tenant, got)
		}
	}
	if got := r.do(t.Context(), t, "GET", "cache/stats", "", "X-Tenant", "none"); got.status != http.StatusUnauthorized {
		t.Errorf("nobody sees %s", got.body)
	}
}

// Who hangs up before the upstream tells the usage, which it does last, has used it all the same.
func TestWhoHangsUpEarlyPays(t *testing.T) {
	u := newUpstream(t)
	u.handle = func(_ int64, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, strings.Repeat(`data: {"choices":[{"index":0,"delta":{"content":"word"}}]}`+"\n\n", 10)+
			`data: {"choices":[{"index":0,"delta":{"content":"`+strings.Repeat("long ", 1000)+`"}}]}`+"\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	r := newNetwork(t).replica(one(t, u), nil)
	l := r.listen(t, ask(strings.Repeat("prompt ", 1000), streamed), "Cache-Control", "no-store")
	l.until(t, "long")
	l.cancel()
	r.settled(t)
	if run := <-r.runs; run.PromptTokens < 1500 || run.CompletionTokens < 1000 || run.CostMicros < 3500 {
		t.Errorf("%+v", run)
	}
}

// Whom to ask is the configuration's to say, whatever a request has in its body, its headers or its model's name.
func TestARequestCannotChooseTheUpstream(t *testing.T) {
	evil := newUpstream(t)
	r, u := single(t, nil)
	address := evil.URL + "/v1"
	for i, body := range []string{
		ask("1", `,"api_base":"`+address+`","base_url":"`+address+`","api_key":"x"`),
		strings.Replace(ask("2", ""), `"m"`, `"`+address+`/m"`, 1),
		strings.Replace(ask("3", ""), `"m"`, `"default/../../x"`, 1),
	} {
		r.post(t, "chat/completions?api_base="+address, body, "Host", "evil.test", "X-Forwarded-Host", "evil.test", "Openai-Base-Url", address, "X-Upstream-Url", address)
		if evil.calls.Load() > 0 || u.calls.Load() != int64(i+1) {
			t.Errorf("%s: asked %d times, and another %d times", body, u.calls.Load(), evil.calls.Load())
		}
	}
	// Nor may the upstream say so.
	u.handle = func(_ int64, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Redirect(w, r, address+"/chat/completions", http.StatusTemporaryRedirect)
		return true
	}
	if got := r.post(t, "chat/completions", ask("4", "")); evil.calls.Load() > 0 || !strings.Contains(got.body, "upstream_redirect") {
		t.Errorf("%d %s, and another was asked %d times", got.status, got.body, evil.calls.Load())
	}
}
