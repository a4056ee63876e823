package llm

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestBodiesAreKeptOnlyIfAsked: whatever came of the request, and whoever made the answer.
func TestBodiesAreKeptOnlyIfAsked(t *testing.T) {
	r, u := single(t, nil)
	fails := func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		http.Error(w, `{"error":{"message":"no such tangerine"}}`, http.StatusBadRequest)
		return true
	}
	for _, c := range []struct {
		name, more string
		headers    []string
		handle     func(int64, http.ResponseWriter, *http.Request, []byte) bool
		answer     string // what is kept; "" for nothing
		how        Outcome
	}{
		{"nobody asked", streamed, nil, nil, "", Miss},
		{"the request asks, of a hit", "", []string{HeaderLog, "true"}, nil, `"content":"alpha béta`, Hit},
		{"the key asks, of a streamed hit", streamed, []string{"X-Log", "1"}, nil, `"content":"alpha béta`, Hit},
		{"the request does not want what the key asks", "", []string{"X-Log", "1", HeaderLog, "false"}, nil, "", Hit},
		{"a miss", streamed, []string{"X-Log", "1", "Cache-Control", "no-cache"}, nil, `"content":"alpha béta`, Miss},
		{"not stored", "", []string{"X-Log", "1", "Cache-Control", "no-store"}, nil, `"content":"alpha béta`, Bypass},
		{"a failure", "", []string{"X-Log", "1", "Cache-Control", "no-cache"}, fails, "no such tangerine", Miss},
	} {
		u.handle = c.handle
		r.post(t, "chat/completions", ask("bodies", c.more), c.headers...)
		r.settled(t)
		run := <-r.runs
		if run.Cache != c.how || (run.Bodies != nil) != (c.answer != "") {
			t.Errorf("%s: %+v", c.name, run)
			continue
		}
		if b := run.Bodies; b != nil && (string(b.Request) != ask("bodies", c.more) || !strings.Contains(string(b.Answer), c.answer) || b.Cut) {
			t.Errorf("%s: %s\n%s", c.name, b.Request, b.Answer)
		}
	}
	u.handle = nil
	r.post(t, "chat/completions", ask(strings.Repeat("x", 2*MaxLoggedBytes), ""), HeaderLog, "true")
	r.settled(t)
	if b := (<-r.runs).Bodies; b == nil || len(b.Request) != MaxLoggedBytes || !b.Cut {
		t.Errorf("%+v", b)
	}
	if got := r.post(t, "chat/completions", ask("x", ""), HeaderLog, "maybe"); got.status != 400 || !strings.Contains(got.body, "invalid_log_bodies") {
		t.Errorf("%+v", got)
	}
}

// TestWhoJoinsHasBodiesOfHisOwn: what he asked, and what he was told.
func TestWhoJoinsHasBodiesOfHisOwn(t *testing.T) {
	r, u := single(t, nil)
	g := make(gate)
	u.word = g.word
	first := r.listen(t, ask("joined", streamed))
	g <- struct{}{}
	first.until(t, "id: 0")
	second := r.listen(t, ask("joined", `,"user":"u"`+streamed), HeaderLog, "true")
	second.until(t, "id: 0")
	g.open()
	first.end(t)
	second.end(t)
	r.settled(t)
	for range 2 {
		run := <-r.runs
		if (run.Cache == Collapsed) != (run.Bodies != nil) {
			t.Errorf("%+v", run)
		}
		if b := run.Bodies; b != nil && (!strings.Contains(string(b.Request), `"user":"u"`) || !strings.Contains(string(b.Answer), whole)) {
			t.Errorf("%s\n%s", b.Request, b.Answer)
		}
	}
}

// TestEachRequestIsOneRun: no less, whatever became of it, and no more, whoever made the answer.
func TestEachRequestIsOneRun(t *testing.T) {
	u := newUpstream(t)
	type handler = func(int64, http.ResponseWriter, *http.Request, []byte) bool
	var now atomic.Pointer[handler] // of what the upstream cut off it may still be at work
	answers := func(h handler) { now.Store(&h) }
	answers(func(int64, http.ResponseWriter, *http.Request, []byte) bool { return false })
	u.handle = func(call int64, w http.ResponseWriter, q *http.Request, body []byte) bool {
		return (*now.Load())(call, w, q, body)
	}
	n := newNetwork(t)
	short := func(c *Config) { c.TTLs.Evaluation = 20 * time.Millisecond }
	a, b := n.replica(one(t, u), short), n.replica(one(t, u), short)
	only := func(r *replica, name string, ok func(Run) bool) {
		t.Helper()
		r.settled(t)
		eventually(t, 5*time.Second, "a run: "+name, func() bool { return len(r.runs) > 0 && r.inside.Load() == 0 })
		if run := <-r.runs; !ok(run) {
			t.Errorf("%s: %+v", name, run)
		}
		for len(r.runs) > 0 {
			t.Errorf("%s: one more: %+v", name, <-r.runs)
		}
	}
	a.post(t, "chat/completions", ask("absent", ""), "Cache-Control", "only-if-cached")
	only(a, "only-if-cached", func(r Run) bool { return r.Status == 504 && r.Error == "not_cached" && r.Cache == Miss })

	a.post(t, "chat/completions", ask("stale", ""), HeaderClass, ClassEvaluation)
	only(a, "a miss", func(r Run) bool { return r.Status == 200 && r.Cache == Miss && r.CostMicros > 0 })
	answers(answering(400, "application/json", "{}"))
	a.post(t, "chat/completions", ask("refused", ""))
	only(a, "a failure", func(r Run) bool { return r.Status == 400 && r.Cache == Miss })
	answers(streaming("CUT"))
	eventually(t, 5*time.Second, "a stale answer", func() bool {
		_, fresh, bid := a.lookup(t.Context(), mustRead(t, a, ask("stale", "")))
		a.unbid(bid)
		return !fresh
	})
	a.post(t, "chat/completions", ask("stale", ""), HeaderClass, ClassEvaluation)
	only(a, "stale-if-error", func(r Run) bool { return r.Status == 200 && r.Cache == Stale && r.Error == "" && r.SavedMicros > 0 })

	// On another replica: one fails, one leaves before anything comes.
	hang := func() (hangs chan struct{}) {
		hangs = make(chan struct{})
		answers(func(call int64, w http.ResponseWriter, q *http.Request, body []byte) bool {
			<-hangs
			return answering(400, "application/json", "{}")(call, w, q, body)
		})
		return hangs
	}
	hangs := hang()
	calls := u.calls.Load()
	first := a.listen(t, ask("elsewhere", streamed))
	eventually(t, 5*time.Second, "the call", func() bool { return u.calls.Load() == calls+1 })
	second := b.listen(t, ask("elsewhere", streamed))
	eventually(t, 5*time.Second, "the other follows", func() bool { return b.follows() })
	close(hangs)
	first.end(t)
	second.end(t)
	only(a, "the leader's", func(r Run) bool { return r.Status == 400 && r.Cache == Miss })
	only(b, "the follower's", func(r Run) bool { return r.Status == 400 && r.Cache == Collapsed })

	hangs = hang()
	first = a.listen(t, ask("left", streamed))
	eventually(t, 5*time.Second, "the call", func() bool { return u.calls.Load() == calls+2 })
	second = b.listen(t, ask("left", streamed))
	eventually(t, 5*time.Second, "the other follows", func() bool { return b.follows() })
	second.cancel()
	eventually(t, 5*time.Second, "he has left", func() bool { return b.inside.Load() == 0 })
	close(hangs)
	first.end(t)
	only(a, "the leader's", func(r Run) bool { return r.Status == 400 && r.Cache == Miss })
	only(b, "who left", func(r Run) bool { return r.Error == "client_left" && r.Cache == Collapsed })

	// The leader is gone, and who followed leads.
	answers(func(call int64, _ http.ResponseWriter, q *http.Request, _ []byte) bool {
		if call == calls+3 {
			<-q.Context().Done()
			return true
		}
		return false
	})
	a.listen(t, ask("taken over", streamed))
	eventually(t, 5*time.Second, "the call", func() bool { return u.calls.Load() == calls+3 })
	second = b.listen(t, ask("taken over", streamed))
	eventually(t, 5*time.Second, "the other follows", func() bool { return b.follows() })
	a.stop()
	second.end(t)
	only(b, "who took over", func(r Run) bool { return r.Status == 200 && r.Cache == Miss && r.CostMicros > 0 })

	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.post(t, "chat/completions", ask("too many", ""))
	only(b, "overloaded", func(r Run) bool { return r.Status == 503 && r.Error == "overloaded" })
}

// follows says whether one of the replica's flights is copied from another one.
func (r *replica) follows() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.byID {
		return f.now(0).remote
	}
	return false
}

// TestWhatIsReserved: only what asks a model, for as long as it does, by its prompt, its bounds and the price.
func TestWhatIsReserved(t *testing.T) {
	var held, asked, micros atomic.Int64
	full := &Refusal{Status: 429, Code: "full"}
	r, _ := single(t, func(c *Config) {
		c.Reserve = func(_ Caller, tokens, cost int64) (func(), *Refusal) {
			if held.Load() > 0 {
				return nil, full
			}
			asked.Add(1)
			micros.Store(cost)
			held.Add(tokens)
			return func() { held.Add(-tokens) }, nil
		}
	})
	for i, c := range []struct {
		more    string
		headers []string
		asked   int64
	}{{`,"max_tokens":100`, nil, 1}, {`,"max_tokens":100`, nil, 1}, {streamed, nil, 2}, {"", []string{"Cache-Control", "no-store"}, 3}} {
		if got := r.post(t, "chat/completions", ask("reserve", c.more), c.headers...); got.status != 200 || asked.Load() != c.asked || held.Load() != 0 {
			t.Errorf("%d: asked %d times, %d are held, %+v", i, asked.Load(), held.Load(), got)
		}
		if i == 0 && (micros.Load() < 200 || micros.Load() > 240) {
			t.Errorf("100 tokens and a prompt cost %d", micros.Load())
		}
		r.settled(t)
	}
	held.Add(1)
	if got := r.post(t, "chat/completions", ask("more", "")); got.status != 429 || !strings.Contains(got.body, `"code":"full"`) {
		t.Errorf("%+v", got)
	}
}

// TestWhatARunCosts: by the model that answered, and something also where the upstream does not say how much it was.
func TestWhatARunCosts(t *testing.T) {
	r, u := single(t, nil)
	u.handle = answering(200, "application/json", `{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"`+strings.Repeat("long ", 1000)+`"},"finish_reason":"stop"}]}`)
	r.post(t, "chat/completions", ask(strings.Repeat("prompt ", 1000), ""))
	r.settled(t)
	if run := <-r.runs; run.PromptTokens < 1500 || run.CompletionTokens < 1000 || run.CostMicros < 3500 {
		t.Errorf("without usage: %+v", run)
	}
	ups := one(t, u)
	u.handle = nil
	ups.List[0].Prices = map[string]Price{"cheap": {Input: 1}, "dear": {Input: 1000}}
	ups.Aliases = map[string][]string{"smart": {"default/cheap", "default/dear"}}
	r = newNetwork(t).replica(ups, nil)
	for range 2 {
		r.post(t, "chat/completions", strings.Replace(ask("x", ""), `"m"`, `"smart"`, 1))
		r.settled(t)
	}
	if miss, hit := <-r.runs, <-r.runs; miss.CostMicros != 10 || hit.SavedMicros != 10 {
		t.Errorf("%+v\n%+v", miss, hit)
	}
}
