package access

import (
	"context"
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
	maxAhead      = 10   // which part of its limit a key may take on one replica before that is settled
	patience      = 250 * time.Millisecond
	idleAccount   = 30 * time.Minute
	sweepEvery    = time.Minute
)

// ledger holds what each key has left of its minute and of its month. Whoever asks is answered from memory. What
// was taken goes to Postgres in one statement for all keys, and what comes back is what all replicas together
// left. So a hit in the cache waits for no network, and there is no second store that may be away.
//
// Between two settlements replicas may together admit more than the limit: each at most a tenth of it (and one
// request at least), since who comes beyond that waits for the next settlement, which then does not wait. The
// bucket goes into debt by that, and its key waits the longer. A month's budget is compared with what was
// spent so far, and with what the answers that are being made here may cost by their length and max_tokens: it is
// overrun by what one of them costs, what they cost more than that, and those that other replicas admitted before they
// were told.
//
// It is safe for concurrent use.
type ledger struct {
	pool   db.Querier
	logger *slog.Logger
	wake   chan struct{} // something is to be settled
	hurry  chan struct{} // and somebody waits for it

	mu       sync.Mutex
	settled  chan struct{}       // closed when the settlement under way, or the next, has ended
	failing  bool                // the last one went wrong: nobody waits
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
	reserved  usage  // of answers that are being made
	waiting   bool   // in pending
	used      time.Time
}

// usage is what answers take, or may take.
type usage struct{ tokens, micros int64 }

func newLedger(pool db.Querier, logger *slog.Logger) *ledger {
	return &ledger{pool: pool, logger: logger, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		settled: make(chan struct{}), accounts: map[string]*account{}}
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

// admit takes a request, or says why not. The limits are those that the response tells of, if there are any. It
// waits where this replica is too far ahead of what is settled, but not for long.
func (l *ledger) admit(ctx context.Context, id string) (*limits, *llm.Refusal) {
	left, why, settled := l.take(id, time.Now(), true)
	if settled == nil {
		return left, why
	}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for settled != nil {
		select {
		case <-settled:
			left, why, settled = l.take(id, time.Now(), true)
		case <-enough.C:
			left, why, settled = l.take(id, time.Now(), false)
		case <-ctx.Done():
			return nil, unavailable
		}
	}
	return left, why
}

// take is admit's one look. If the request would have to wait, it returns what for.
func (l *ledger) take(id string, now time.Time, wait bool) (left *limits, why *llm.Refusal, settled <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[id]
	if a == nil || a.requests.limit == 0 && a.tokens.limit == 0 && a.budget == nil {
		return nil, nil, nil
	}
	a.used = now
	if why = a.refuse(now); why != nil {
		return a.limits(), why, nil
	}
	if a.requests.limit > 0 {
		if wait && !l.failing && a.unsettled.TakenRequests+a.settling.TakenRequests >= max(1, a.requests.limit/maxAhead) {
			signal(l.hurry)
			return nil, nil, l.settled
		}
		a.requests.level--
		a.unsettled.TakenRequests++
		l.ring(id, a)
	}
	return a.limits(), nil, nil
}

// reserve sets aside what an answer may take, unless those that are being made may take all that is left. So many that
// begin at once do not overrun what one after the other would not. The last of them may: it is an estimate, and there is
// something left.
func (l *ledger) reserve(id string, u usage) (release func(), why *llm.Refusal) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[id]
	if a == nil || a.tokens.limit == 0 && a.budget == nil {
		return func() {}, nil
	}
	if why = a.spentUp(now); why != nil { // the request itself has been taken
		return nil, why
	}
	switch {
	case a.budget != nil && a.reserved.micros > 0 && a.spent+a.settling.CostMicros+a.unsettled.CostMicros+a.reserved.micros >= *a.budget:
		return nil, budgetInUse
	case a.tokens.limit > 0 && a.reserved.tokens > 0 && a.tokens.level <= float64(a.reserved.tokens):
		return nil, overLimit("tokens", a.tokens.limit, max(time.Second, a.tokens.until(float64(a.reserved.tokens+1))))
	}
	a.reserved.tokens += u.tokens
	a.reserved.micros += u.micros
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.reserved.tokens -= u.tokens
		a.reserved.micros -= u.micros
	}, nil
}

// refuse brings the account up to now and says why it takes no further request, if so.
func (a *account) refuse(now time.Time) *llm.Refusal {
	why := a.spentUp(now)
	a.requests.fill(now)
	if why == nil && a.requests.limit > 0 && a.requests.level < 1 {
		return overLimit("requests", a.requests.limit, a.requests.until(1))
	}
	return why
}

// spentUp brings tokens and money up to now and says which of them is used up, if one is.
func (a *account) spentUp(now time.Time) *llm.Refusal {
	if this := month(now); this.After(a.month) {
		a.month, a.spent = this, 0
	}
	a.tokens.fill(now)
	switch {
	case a.budget != nil && a.spent+a.settling.CostMicros+a.unsettled.CostMicros >= *a.budget:
		return overBudget(a.month.AddDate(0, 1, 0), now)
	case a.tokens.limit > 0 && a.tokens.level <= 0:
		return overLimit("tokens", a.tokens.limit, a.tokens.until(1))
	}
	return nil
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

// ring makes sure that the account is settled.
func (l *ledger) ring(id string, a *account) {
	if !a.waiting {
		a.waiting = true
		l.pending = append(l.pending, id)
	}
	signal(l.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
