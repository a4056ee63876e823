package access

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/db/dbtest"
)

// settled waits until nothing of a replica is left to settle.
func (r *replica) settled(t testing.TB) {
	t.Helper()
	eventually(t, "settled", func() bool {
		r.ledger.mu.Lock()
		defer r.ledger.mu.Unlock()
		for _, a := range r.ledger.accounts {
			if a.settling != (db.Use{}) || a.unsettled != (db.Use{}) {
				return false
			}
		}
		return true
	})
}

func TestRequestsAMinute(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := newReplica(t, newPool(t, url)), newReplica(t, newPool(t, url))
	_, key := createKey(t, a.pool, func(k *db.Key) { k.RequestsPerMinute = new(int64(5)) })
	_, other := createKey(t, a.pool, nil)
	for left := range 5 {
		w := a.ask(key)
		h := w.Header()
		if w.Code != 200 || h.Get("x-ratelimit-limit-requests") != "5" || h.Get("x-ratelimit-remaining-requests") != strconv.Itoa(4-left) {
			t.Fatalf("request %d: %d %v", left, w.Code, h)
		}
		if d, err := time.ParseDuration(h.Get("x-ratelimit-reset-requests")); err != nil || d > time.Duration(left+1)*12*time.Second {
			t.Errorf("request %d: full after %v, %v", left, d, err)
		}
		if h.Get("x-ratelimit-limit-tokens") != "" {
			t.Errorf("there is no limit of tokens: %v", h)
		}
	}
	a.settled(t)
	for name, r := range map[string]*replica{"the same replica": a, "another replica": b} {
		w := r.ask(key)
		if w.Code != http.StatusTooManyRequests || code(t, w) != "requests_per_minute_exceeded" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if s, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || s < 1 || s > 12 {
			t.Errorf("%s: Retry-After: %q", name, w.Header().Get("Retry-After"))
		}
		if w.Header().Get("x-ratelimit-remaining-requests") != "0" {
			t.Errorf("%s: %v", name, w.Header())
		}
		for range 20 { // no limits
			if r.ask(other).Code != 200 || r.ask(serverKey).Code != 200 {
				t.Fatal("another key is held up")
			}
		}
		if w := r.get(key, "/v1/runs"); w.Code != 200 {
			t.Errorf("%s: what asks no model takes nothing: %d", name, w.Code)
		}
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := meter{limit: 60, level: 60, at: now}
	m.level -= 60
	if m.left() != 0 || m.until(1) != time.Second || m.until(60) != time.Minute {
		t.Errorf("empty: %v %v %v", m.left(), m.until(1), m.until(60))
	}
	m.fill(now.Add(time.Second))
	if m.level != 1 || m.until(1) != 0 {
		t.Errorf("after a second: %v", m.level)
	}
	m.fill(now) // a clock that goes back gives nothing and takes nothing
	if m.level != 1 {
		t.Errorf("after the clock went back: %v", m.level)
	}
	m.fill(now.Add(time.Hour))
	if m.level != 60 {
		t.Errorf("after an hour: %v", m.level)
	}
	m.level -= 100 // found out too late
	if m.left() != 0 || m.until(1) != 41*time.Second {
		t.Errorf("in debt: %v %v", m.left(), m.until(1))
	}
	if d := (&meter{}).until(1); d != 0 {
		t.Errorf("without a limit: %v", d)
	}
}

// Replicas that are asked at once admit more than the limit only by what each may take before it settles, and make
// up for it.
func TestReplicasShareALimit(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := newReplica(t, newPool(t, url)), newReplica(t, newPool(t, url))
	for _, limit := range []int64{5, 100} {
		id, key := createKey(t, a.pool, func(k *db.Key) { k.RequestsPerMinute = new(limit) })
		var admitted atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		for _, r := range []*replica{a, b} {
			for range 8 {
				wg.Go(func() {
					for range limit {
						if r.ask(key).Code == 200 {
							admitted.Add(1)
						}
					}
				})
			}
		}
		wg.Wait()
		refilled := int64(time.Since(began).Minutes()*float64(limit)) + 1
		a.settled(t)
		b.settled(t)
		n := admitted.Load()
		if most := limit + 2*max(1, limit/maxAhead) + refilled; n < limit || n > most {
			t.Errorf("limit %d: %d were admitted, at most %d should be", limit, n, most)
		}
		_, s, err := db.KeyByID(t.Context(), a.pool, id)
		if left := float64(limit - n); err != nil || s.RequestsLeft < left || s.RequestsLeft > left+float64(refilled)+1 {
			t.Errorf("limit %d: %d were admitted and %v are left (%v)", limit, n, s.RequestsLeft, err)
		}
		c := newReplica(t, newPool(t, url)) // has only what the database knows
		if w := c.ask(key); w.Code != http.StatusTooManyRequests {
			t.Errorf("limit %d: a new replica: %d", limit, w.Code)
		}
	}
}

// Who would have to wait for a database that hangs does not wait for long, and for one that is known to be away not
// at all.
func TestNobodyWaitsForLong(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	_, key := createKey(t, r.pool, func(k *db.Key) { k.RequestsPerMinute = new(int64(5)) })
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err = tx.Exec(t.Context(), "LOCK TABLE forgewire.meters IN ACCESS EXCLUSIVE MODE; LOCK TABLE forgewire.usage IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	id, _ := keyID(key)
	r.ledger.learned(db.Key{ID: id, Tenant: "acme", RequestsPerMinute: new(int64(5))}, db.Standing{RequestsLeft: 5})
	began := time.Now()
	for i := range 2 {
		if _, why := r.ledger.admit(t.Context(), id); why != nil {
			t.Fatalf("request %d: %v", i, why)
		}
	}
	if d := time.Since(began); d < patience || d > 4*patience {
		t.Errorf("two took %v", d)
	}
	r.ledger.mu.Lock()
	r.ledger.failing = true
	r.ledger.mu.Unlock()
	began = time.Now()
	if _, why := r.ledger.admit(t.Context(), id); why != nil {
		t.Fatal(why)
	}
	if d := time.Since(began); d > patience/2 {
		t.Errorf("it took %v", d)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r.ledger.mu.Lock()
	r.ledger.failing = false
	r.ledger.mu.Unlock()
	if _, why := r.ledger.admit(gone, id); why == nil {
		t.Error("one who left was admitted")
	}
}

func run(c llm.Caller, outcome llm.Outcome, tokens, cost int64) llm.Run {
	return llm.Run{ID: "resp_1", Tenant: c.Tenant, KeyID: c.KeyID, Endpoint: "chat/completions", Model: "gpt-4o", Upstream: "openai",
		Status: 200, Cache: outcome, RequestHash: "ab", PromptTokens: tokens / 2, CompletionTokens: tokens - tokens/2, CostMicros: cost,
		Started: time.Now(), FirstToken: 20 * time.Millisecond, Duration: 1500 * time.Millisecond}
}

func TestTokensAMinute(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := newReplica(t, newPool(t, url)), newReplica(t, newPool(t, url))
	id, key := createKey(t, a.pool, func(k *db.Key) { k.TokensPerMinute = new(int64(1000)) })
	caller := llm.Caller{Tenant: "acme", KeyID: id}
	if w := a.ask(key); w.Code != 200 || w.Header().Get("x-ratelimit-remaining-tokens") != "1000" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	a.Record(run(caller, llm.Hit, 900, 0)) // the cache's answers take no tokens
	a.Record(run(caller, llm.Collapsed, 900, 0))
	a.Record(run(caller, llm.Miss, 600, 10))
	if w := a.ask(key); w.Code != 200 || w.Header().Get("x-ratelimit-remaining-tokens") != "400" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	a.Record(run(caller, llm.Miss, 1400, 10)) // nobody could know before
	a.settled(t)
	for name, r := range map[string]*replica{"the same replica": a, "another replica": b} {
		w := r.ask(key)
		if w.Code != http.StatusTooManyRequests || code(t, w) != "tokens_per_minute_exceeded" || w.Header().Get("x-ratelimit-remaining-tokens") != "0" {
			t.Errorf("%s: %d %s %v", name, w.Code, w.Body, w.Header())
		}
		if s, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || s < 50 || s > 61 {
			t.Errorf("%s: Retry-After: %q", name, w.Header().Get("Retry-After"))
		}
	}
}

// TestManyAtOnceDoNotOverrun: who has a little left may not begin a thousand answers before the first has ended.
func TestManyAtOnceDoNotOverrun(t *testing.T) {
	t.Parallel()
	a := newReplica(t, newPool(t, dbtest.New(t)))
	for code, limit := range map[string]func(*db.Key){
		"tokens_per_minute_exceeded": func(k *db.Key) { k.TokensPerMinute = new(int64(1000)) },
		"budget_in_use":              func(k *db.Key) { k.BudgetMicros = new(int64(1000)) },
	} {
		id, key := createKey(t, a.pool, limit)
		if w := a.ask(key); w.Code != 200 {
			t.Fatal(w.Code)
		}
		var under []func()
		var why *llm.Refusal
		for why == nil && len(under) < 100 {
			var release func()
			if release, why = a.Reserve(llm.Caller{Tenant: "acme", KeyID: id}, 300, 300); why == nil {
				under = append(under, release)
			}
		}
		if len(under) != 4 || why == nil || why.Code != code || why.Header.Get("Retry-After") == "" {
			t.Errorf("%d begin, then %+v", len(under), why)
		}
		for _, release := range under {
			release()
		}
		release, why := a.Reserve(llm.Caller{Tenant: "acme", KeyID: id}, 1e6, 1e6) // an estimate may be more than is left
		if why != nil {
			t.Fatal(why)
		}
		release()
	}
	if _, why := a.Reserve(llm.Caller{Tenant: "default"}, 1e12, 1e12); why != nil {
		t.Error("the server's own key", why)
	}
}

// TestTheLastRequestIsAnswered: what an answer may take is set aside when its request has been taken already.
func TestTheLastRequestIsAnswered(t *testing.T) {
	t.Parallel()
	a := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, a.pool, func(k *db.Key) {
		k.RequestsPerMinute, k.TokensPerMinute, k.BudgetMicros = new(int64(1)), new(int64(1000)), new(int64(1000))
	})
	if w := a.ask(key); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	release, why := a.Reserve(llm.Caller{Tenant: "acme", KeyID: id}, 300, 300)
	if why != nil {
		t.Fatal(why)
	}
	release()
	if w := a.ask(key); w.Code != http.StatusTooManyRequests || code(t, w) != "requests_per_minute_exceeded" {
		t.Error(w.Code, w.Body)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := newReplica(t, newPool(t, url)), newReplica(t, newPool(t, url))
	id, key := createKey(t, a.pool, func(k *db.Key) { k.BudgetMicros = new(int64(1000)) })
	_, nothing := createKey(t, a.pool, func(k *db.Key) { k.BudgetMicros = new(int64(0)) })
	caller := llm.Caller{Tenant: "acme", KeyID: id}
	if w := a.ask(key); w.Code != 200 {
		t.Fatal(w.Code)
	}
	a.Record(run(caller, llm.Miss, 10, 999))
	a.Record(run(caller, llm.Hit, 10, 0))
	if w := a.ask(key); w.Code != 200 {
		t.Fatal(w.Code)
	}
	a.Record(run(caller, llm.Bypass, 10, 1))
	if w := a.ask(key); w.Code != http.StatusTooManyRequests {
		t.Errorf("at once, before anything is settled: %d", w.Code)
	}
	a.settled(t)
	for name, r := range map[string]*replica{"the same replica": a, "another replica": b} {
		w := r.ask(key)
		if w.Code != http.StatusTooManyRequests || code(t, w) != "budget_exceeded" || w.Header().Get("X-Should-Retry") != "false" {
			t.Errorf("%s: %d %s %v", name, w.Code, w.Body, w.Header())
		}
		reset, err := time.Parse(time.RFC3339, w.Header().Get("X-Ratelimit-Reset-Budget"))
		if err != nil || !reset.After(time.Now()) || reset.Day() != 1 || time.Until(reset) > 32*24*time.Hour {
			t.Errorf("%s: reset at %v, %v", name, reset, err)
		}
		if s, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || time.Duration(s)*time.Second < time.Until(reset)-time.Second {
			t.Errorf("%s: Retry-After: %q", name, w.Header().Get("Retry-After"))
		}
		if w := r.ask(nothing); w.Code != http.StatusTooManyRequests || code(t, w) != "budget_exceeded" {
			t.Errorf("a budget of nothing: %d", w.Code)
		}
	}
	if _, why, _ := a.ledger.take(id, time.Now().AddDate(0, 1, 0), false); why != nil {
		t.Errorf("the next month: %v", why)
	}
}

// While the database is away nothing that was used is lost; it is settled when it is back.
func TestSettlesLater(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, func(k *db.Key) { k.RequestsPerMinute, k.BudgetMicros = new(int64(1000)), new(int64(1<<40)) })
	if _, err := r.pool.Exec(t.Context(), "ALTER FUNCTION forgewire.settle RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if w := r.ask(key); w.Code != 200 {
			t.Fatal(w.Code)
		}
		r.Record(run(llm.Caller{Tenant: "acme", KeyID: id}, llm.Miss, 10, 7))
	}
	eventually(t, "settlements fail", func() bool { return strings.Count(r.logs.String(), "could not be settled") > 1 })
	if _, err := r.pool.Exec(t.Context(), "ALTER FUNCTION forgewire.away RENAME TO settle"); err != nil {
		t.Fatal(err)
	}
	r.settled(t)
	_, s, err := db.KeyByID(t.Context(), r.pool, id)
	if err != nil || s.SpentMicros != 70 || s.RequestsLeft >= 1000 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A replica that stops settles and writes what is left.
func TestStopSettlesAndWrites(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, _ := createKey(t, r.pool, nil)
	for range 3 * maxBatch {
		r.Record(run(llm.Caller{Tenant: "acme", KeyID: id}, llm.Miss, 10, 7))
	}
	r.stop()
	_, s, err := db.KeyByID(t.Context(), r.pool, id)
	if err != nil || s.SpentMicros != 3*maxBatch*7 {
		t.Errorf("settled: %+v, %v", s, err)
	}
	var n int
	if err = r.pool.QueryRow(t.Context(), "SELECT count(*) FROM forgewire.runs").Scan(&n); err != nil || n != 3*maxBatch {
		t.Errorf("%d runs written, %v", n, err)
	}
}

// An account that nobody uses is forgotten, but not while it has something to settle.
func TestSweep(t *testing.T) {
	t.Parallel()
	l := newLedger(nil, nil)
	old := time.Now().Add(-2 * idleAccount)
	l.accounts["a"] = &account{used: old}
	l.accounts["b"] = &account{used: old, waiting: true}
	l.accounts["c"] = &account{used: time.Now()}
	l.sweep(time.Now())
	if len(l.accounts) != 2 || l.accounts["a"] != nil {
		t.Errorf("%v", l.accounts)
	}
}
