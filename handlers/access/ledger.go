package access

import (
	"log/slog"
	"sync"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
)

const (
	settleEvery   = 200 * time.Millisecond // at most; while there is nothing to settle, never
	settleTimeout = 5 * time.Second
	settleAtOnce  = 1000 // accounts in one statement
	idleAccount   = 30 * time.Minute
	sweepEvery    = time.Minute
)

// ledger holds what each key has left of its minute and of its month. Whoever asks is answered from memory. What
// was taken goes to Postgres in one statement for all keys, and what comes back is what all replicas together
// left. So between two settlements replicas may together admit more than the limit; a bucket goes into debt by
// that, and its keys wait the longer. The same holds for a month's budget, which is compared with what was spent
// so far: it is overrun by at most what the requests cost that were under way when it was reached, and those that
// other replicas admitted within one settlement.
//
// It is safe for concurrent use.
type ledger struct {
	pool   db.Querier
	logger *slog.Logger
	wake   chan struct{} // something is to be settled

	mu       sync.Mutex
	accounts map[string]*account // by the key's id; "" is the server's own. As many as keys were used lately
	pending  []string            // the accounts with something to settle, each once
	swept    time.Time
}

// account is one key's. The ledger's lock guards it.
type account struct {
	tenant           string
	requests, tokens meter
	budget           *int64
	spent            int64     // of the month, as the database last said
	month            time.Time // the month that is meant

	unsettled db.Use // since the last settlement began
	settling  db.Use // what that took along
	waiting   bool   // in pending
	used      time.Time
}

func newLedger(pool db.Querier, logger *slog.Logger) *ledger {
	return &ledger{pool: pool, logger: logger, wake: make(chan struct{}, 1), accounts: map[string]*account{}}
}

// learned takes over what the verifier read of a key. What the account has not settled yet is not in it.
func (l *ledger) learned(k db.Key, s db.Standing) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(k.ID, k.Tenant, now)
	a.budget = k.BudgetMicros
	if a.settling == (db.Use{}) {
		a.stand(k.RequestsPerMinute, k.TokensPerMinute, s, now)
		return
	}
	// What is being settled may be in the standing or not: the settlement will say.
	a.requests.fill(now)
	a.requests.set(k.RequestsPerMinute, a.requests.level, now)
	a.tokens.fill(now)
	a.tokens.set(k.TokensPerMinute, a.tokens.level, now)
}

func (l *ledger) account(id, tenant string, now time.Time) *account {
	a, ok := l.accounts[id]
	if !ok {
		a = &account{tenant: tenant}
		l.accounts[id] = a
	}
	a.used = now
	return a
}

// stand sets the account to what the database says, less what it does not know of.
func (a *account) stand(requests, tokens *int64, s db.Standing, now time.Time) {
	a.requests.set(requests, s.RequestsLeft-float64(a.unsettled.TakenRequests), now)
	a.tokens.set(tokens, s.TokensLeft-float64(a.unsettled.TakenTokens), now)
	a.spent, a.month = s.SpentMicros, month(now)
}

func month(t time.Time) time.Time {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
}

// take admits a request, or says why not. The limits are those that the response tells of, if there are any.
func (l *ledger) take(id string, now time.Time) (*limits, *llm.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[id]
	if a == nil || a.requests.limit == 0 && a.tokens.limit == 0 && a.budget == nil {
		return nil, nil
	}
	a.used = now
	if this := month(now); this.After(a.month) {
		a.month, a.spent = this, 0
	}
	a.requests.fill(now)
	a.tokens.fill(now)
	if a.budget != nil && a.spent+a.settling.CostMicros+a.unsettled.CostMicros >= *a.budget {
		return a.limits(), overBudget(a.month.AddDate(0, 1, 0), now)
	}
	if a.requests.limit > 0 && a.requests.level < 1 {
		return a.limits(), overLimit("requests", a.requests.limit, a.requests.until(1))
	}
	if a.tokens.limit > 0 && a.tokens.level <= 0 {
		return a.limits(), overLimit("tokens", a.tokens.limit, a.tokens.until(1))
	}
	if a.requests.limit > 0 {
		a.requests.level--
		a.unsettled.TakenRequests++
		l.ring(id, a)
	}
	return a.limits(), nil
}

// record counts a run that has ended: never dropped, since a sum takes no more room than its parts.
func (l *ledger) record(r *llm.Run) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(r.KeyID, r.Tenant, now)
	u := &a.unsettled
	u.Requests++
	if asked(r) {
		u.PromptTokens += r.PromptTokens
		u.CompletionTokens += r.CompletionTokens
		u.CostMicros += r.CostMicros
		if cost(r) == nil {
			u.Unpriced++
		}
		if a.tokens.limit > 0 {
			u.TakenTokens += r.PromptTokens + r.CompletionTokens
			a.tokens.fill(now)
			a.tokens.level -= float64(r.PromptTokens + r.CompletionTokens)
		}
	} else {
		u.Cached++
		u.SavedMicros += r.SavedMicros
	}
	l.ring(r.KeyID, a)
}

// asked reports whether an upstream worked for a run: what came from the cache, or from a call that another run
// paid for, takes no tokens.
func asked(r *llm.Run) bool { return r.Cache == llm.Miss || r.Cache == llm.Bypass }

// cost is what a run cost, nil if the price is not known.
func cost(r *llm.Run) *int64 {
	if asked(r) && r.CostMicros == 0 && r.PromptTokens+r.CompletionTokens > 0 {
		return nil
	}
	return &r.CostMicros
}

func (l *ledger) ring(id string, a *account) {
	if !a.waiting {
		a.waiting = true
		l.pending = append(l.pending, id)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
