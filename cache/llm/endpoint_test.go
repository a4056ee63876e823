package llm

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"forgewire/cache"
)

const whole = "alpha béta 😀 delta"

// settled waits until the flights of a replica have ended, so that what they brought is in the cache.
func (r *replica) settled(t testing.TB) {
	t.Helper()
	eventually(t, 20e9, "the flights end", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.byID) == 0
	})
}

func TestMissThenHitInEachForm(t *testing.T) {
	for _, first := range []string{"", streamed, streamed + `,"stream_options":{"include_usage":true}`} {
		r, u := single(t, nil)
		miss := r.post(t, "chat/completions", ask("hi", first))
		r.settled(t)
		if miss.status != 200 || !strings.Contains(miss.header.Get("Cache-Status"), "forgewire; fwd=miss") || miss.header.Get("Forgewire-Id") == "" {
			t.Fatalf("%+v", miss)
		}
		again := r.post(t, "chat/completions", ask("hi", first))
		if again.body != miss.body || !strings.HasPrefix(again.header.Get("Cache-Status"), "forgewire; hit; ttl=3") || again.header.Get("Age") == "" {
			t.Errorf("the hit is not the miss:\n%+v\n%+v", miss, again)
		}
		for _, other := range []string{"", streamed, streamed + `,"stream_options":{"include_usage":true}`} {
			hit := r.post(t, "chat/completions", ask("hi", other))
			text := ""
			if other == "" {
				text = content(t, hit.body)
			} else if done := false; true {
				if text, done = said(t, hit.body); !done {
					t.Error("no [DONE]")
				}
				if got, want := strings.Contains(hit.body, `"usage"`), other != streamed; got != want {
					t.Errorf("usage %v, want %v: %s", got, want, hit.body)
				}
			}
			if text != whole+" #1" {
				t.Errorf("%q as %q: %q", first, other, text)
			}
		}
		if n := u.calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
		miss1, hit1 := <-r.runs, <-r.runs
		if miss1.Cache != Miss || miss1.PromptTokens != 10 || miss1.CompletionTokens != 4 || miss1.CostMicros != 18 || miss1.FirstToken == 0 || miss1.Upstream != "default" {
			t.Errorf("%+v", miss1)
		}
		if hit1.Cache != Hit || hit1.CostMicros != 0 || hit1.SavedMicros != 18 || hit1.RequestHash != miss1.RequestHash {
			t.Errorf("%+v", hit1)
		}
		total, _ := r.Stats()
		if total.Hits != 4 || total.Misses != 1 || total.HitRate != 80 || total.TokensSaved != 4*14 || total.SavedMicros != 4*18 {
			t.Errorf("%+v", total)
		}
	}
}

func TestRequestControls(t *testing.T) {
	r, u := single(t, nil)
	q := ask("controls", "")
	if got := r.post(t, "chat/completions", q, "Cache-Control", "only-if-cached"); got.status != 504 || !strings.Contains(got.body, "not_cached") || u.calls.Load() != 0 {
		t.Errorf("%+v", got)
	}
	expect := func(calls int64, outcome string, headers ...string) reply {
		t.Helper()
		got := r.post(t, "chat/completions", q, headers...)
		r.settled(t)
		if u.calls.Load() != calls || !strings.Contains(got.header.Get("Cache-Status"), outcome) {
			t.Errorf("%v: %d calls, %+v", headers, u.calls.Load(), got)
		}
		return got
	}
	expect(1, "fwd=bypass", "Cache-Control", "no-store")
	expect(2, "fwd=miss")
	expect(2, "hit")
	expect(2, "hit", "Cache-Control", "only-if-cached")
	expect(2, "hit", "Cache-Control", "max-age=100")
	expect(3, "fwd=bypass", "Cache-Control", "no-store")
	expect(4, "fwd=request", "Cache-Control", "no-cache")
	if got := expect(4, "hit"); content(t, got.body) != whole+" #4" {
		t.Errorf("what no-cache brought was not stored: %s", got.body)
	}
	expect(5, "fwd=request", "Cache-Control", "max-age=0")
	for header, bad := range map[string]string{"Cache-Control": "max-age=x", "Forgewire-Cache-Class": "x", "Forgewire-Cache-Tags": "a b"} {
		if got := r.post(t, "chat/completions", q, header, bad); got.status != 400 || !strings.Contains(got.body, `"type":"invalid_request_error"`) {
			t.Errorf("%s: %+v", header, got)
		}
	}
	if got := r.post(t, "chat/completions", ask("class", ""), "Forgewire-Cache-Class", "system_prompt", "Forgewire-Cache-Tags", "a,b"); got.status != 200 {
		t.Errorf("%+v", got)
	}
}

// TestClocksApart: what another replica stored in our future is new, and none has an age below 0.
func TestClocksApart(t *testing.T) {
	r, _ := single(t, nil)
	req := mustRead(t, r, ask("clocks", ""))
	rec := &recording{object: []byte(`{}`), recordingHead: recordingHead{Scope: hashed(req.scope), Endpoint: chat}}
	value, err := rec.encode()
	if err != nil {
		t.Fatal(err)
	}
	for ahead, fresh := range map[time.Duration]bool{time.Hour: true, -time.Minute: true, -2 * time.Hour: false} {
		h, ok := req.judge(cache.Entry{Value: value, Stored: time.Now().Add(ahead), TTL: time.Hour}, true)
		if ok != fresh || h == nil || h.age < 0 || h.ttl > time.Hour {
			t.Errorf("%s ahead: %v %+v", ahead, ok, h)
		}
	}
}

func TestModes(t *testing.T) {
	r, u := single(t, func(c *Config) { c.Mode = CacheDeterministic })
	for i, c := range []struct {
		more  string
		calls int64
	}{{"", 2}, {`,"temperature":0`, 1}, {`,"temperature":0.0,"top_p":1`, 1}, {`,"seed":1`, 1}, {`,"temperature":0.1`, 2}} {
		u.calls.Store(0)
		for range 2 {
			r.post(t, "chat/completions", ask(strings.Repeat("m", i+1), c.more))
			r.settled(t)
		}
		if u.calls.Load() != c.calls {
			t.Errorf("%s: %d calls", c.more, u.calls.Load())
		}
	}
	off, u := single(t, func(c *Config) { c.Mode = CacheOff })
	for range 2 {
		got := off.post(t, "chat/completions", ask("x", `,"temperature":0,"stream":true`))
		if text, done := said(t, got.body); !done || !strings.HasPrefix(text, whole) || strings.Contains(got.body, "id: ") || got.header.Get("Forgewire-Id") != "" || strings.Contains(got.body, "usage") {
			t.Errorf("%+v", got)
		}
	}
	if u.calls.Load() != 2 {
		t.Error(u.calls.Load())
	}
}

func TestTenantsShareOnlyIfBothWant(t *testing.T) {
	r, u := single(t, nil)
	for _, c := range []struct {
		tenant, shared string
		calls          int64
	}{{"a", "", 1}, {"b", "", 2}, {"a", "", 2}, {"c", "1", 3}, {"d", "1", 3}, {"b", "", 3}, {"e", "", 4}} {
		r.post(t, "chat/completions", ask("tenants", ""), "X-Tenant", c.tenant, "X-Shared", c.shared)
		r.settled(t)
		if u.calls.Load() != c.calls {
			t.Errorf("%+v: %d calls", c, u.calls.Load())
		}
	}
}

func TestBadRequests(t *testing.T) {
	r, u := single(t, nil)
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for body, code := range map[string]string{
		"": "invalid_json", "{": "invalid_json", "[]": "invalid_json", `{"model":"m"} x`: "invalid_json", "\"\xff\"": "invalid_utf8",
		`{"model":"m","a":` + deep + `}`: "body_too_deep", `{"model":"m","model":"n"}`: "duplicate_name", `{}`: "invalid_model", `{"model":3}`: "invalid_model",
		`{"model":"` + strings.Repeat("x", 201) + `"}`: "invalid_model", `{"model":"m","stream":"yes"}`: "invalid_type", `{"model":"m","stream_options":1}`: "invalid_type",
		`{"model":"m","x":"` + strings.Repeat("x", maxBodyBytes) + `"}`: "body_too_large",
	} {
		got := r.post(t, "chat/completions", body)
		if !strings.Contains(got.body, `"code":"`+code+`"`) || got.status < 400 || got.status >= 500 || !strings.Contains(got.body, `"type":"invalid_request_error"`) {
			t.Errorf("%.60s: %d %s, want %s", body, got.status, got.body, code)
		}
	}
	if got := r.post(t, "chat/completions", ask("x", ""), "Content-Encoding", "gzip"); got.status != 415 {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", ask("x", ""), "X-Tenant", "none"); got.status != 401 || !strings.Contains(got.body, "invalid_api_key") {
		t.Errorf("%+v", got)
	}
	if got := r.post(t, "chat/completions", ask("x", ""), "X-Tenant", "t", "X-Models", "gpt-*,o3"); got.status != 403 || !strings.Contains(got.body, "model_not_allowed") {
		t.Errorf("%+v", got)
	}
	if u.calls.Load() != 0 {
		t.Error("the upstream was asked")
	}
}

func TestTheUpstreamIsAskedWhatTheCallerAsked(t *testing.T) {
	r, u := single(t, nil)
	r.post(t, "chat/completions", `{ "model":"m", "x" : 1.0, "messages":[] }`)
	r.post(t, "chat/completions", `{"model":"m","messages":[],"stream":true,"stream_options":{"include_obfuscation":false}}`)
	first, _ := u.bodies.Load(int64(1))
	second, _ := u.bodies.Load(int64(2))
	if first != `{ "model":"m", "x" : 1.0, "messages":[] }` {
		t.Errorf("%s", first)
	}
	if second != `{"model":"m","messages":[],"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}` {
		t.Errorf("%s", second)
	}
}

// A purge that may not have reached every copy says so: of a key too.
func TestPurgeWithValkeyAway(t *testing.T) {
	values, err := cache.New(cache.Config{URL: "redis://127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := single(t, func(c *Config) { c.Cache = values })
	for _, tenant := range []string{"", "a"} {
		for _, body := range []string{`{"key":"k"}`, `{"tag":"t"}`, `{"all":true}`} {
			if got := r.post(t, "cache/purge", body, "X-Tenant", tenant); got.status != 503 || !strings.Contains(got.body, "purge_incomplete") || got.header.Get("Retry-After") == "" {
				t.Errorf("%q purges %s: %+v", tenant, body, got)
			}
		}
	}
}

func TestPurge(t *testing.T) {
	r, u := single(t, nil)
	fill := func() (key string) {
		t.Helper()
		got := r.post(t, "chat/completions", ask("purge", ""), "X-Tenant", "a", "Forgewire-Cache-Tags", "docs")
		r.settled(t)
		_, key, _ = strings.Cut(got.header.Get("Cache-Status"), `key="`)
		key, _, _ = strings.Cut(key, `"`)
		return key
	}
	k := fill()
	for i, c := range []struct {
		body, tenant string
		status       int
		gone         bool
	}{
		{`{"tag":"docs"}`, "b", 200, false}, {`{"model":"m"}`, "b", 200, false}, {`{"all":true}`, "b", 200, false}, {`{"key":"` + k + `"}`, "b", 200, false},
		{`{"all":true,"tenant":"a"}`, "b", 403, false}, {`{}`, "a", 400, false}, {`{"tag":"docs","model":"m"}`, "a", 400, false}, {`{"x":1}`, "a", 400, false},
		{`{"tag":"other"}`, "a", 200, false}, {`{"tag":"docs"}`, "a", 200, true}, {`{"model":"m"}`, "a", 200, true}, {`{"all":true}`, "a", 200, true},
		{`{"key":"` + k + `"}`, "a", 200, true}, {`{"all":true,"tenant":"a"}`, "", 200, true},
	} {
		before := u.calls.Load()
		if got := r.post(t, "cache/purge", c.body, "X-Tenant", c.tenant); got.status != c.status {
			t.Errorf("%d %s: %+v", i, c.body, got)
		}
		fill()
		if gone := u.calls.Load() > before; gone != c.gone {
			t.Errorf("%d %s as %q: gone %v", i, c.body, c.tenant, gone)
		}
	}
}
