package access

import (
	"context"
	"time"

	"forgewire/db"
)

// run settles until ctx ends, and then what is left, as long as work lasts. The first use after a silence is settled at once; those that
// come meanwhile share the next settlement.
func (l *ledger) run(ctx, work context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := settleEvery; ; {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return l.settleAll(work)
		}
		if err := l.settle(work); err != nil {
			wait = min(2*wait, settleTimeout)
			l.logger.Warn("what the API keys used could not be settled: each replica keeps to the limits by itself until that goes well", "error", err)
		} else {
			wait = settleEvery
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// settleAll settles what is left when the replica stops.
func (l *ledger) settleAll(ctx context.Context) error {
	for {
		l.mu.Lock()
		left := len(l.pending)
		l.mu.Unlock()
		if left == 0 {
			return nil
		}
		if err := l.settle(ctx); err != nil {
			l.logger.Error("what the API keys used last is lost", "keys", left, "error", err)
			return nil // the replica stops all the same
		}
	}
}

// settle brings what is pending to the database and takes over what is left. If that fails it stays pending; and
// if only the answer was lost, it is counted twice rather than not at all.
func (l *ledger) settle(ctx context.Context) error {
	uses := l.begin()
	if len(uses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	standings, err := db.Settle(ctx, l.pool, uses)
	l.end(uses, standings, err)
	return err
}

// begin moves what is unsettled, of at most settleAtOnce accounts, to what is being settled.
func (l *ledger) begin() []db.Use {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.pending), settleAtOnce)
	uses := make([]db.Use, 0, n)
	for _, id := range l.pending[:n] {
		a := l.accounts[id]
		a.waiting = false
		a.settling, a.unsettled = a.unsettled, db.Use{}
		u := a.settling
		u.KeyID, u.Tenant = id, a.tenant
		uses = append(uses, u)
	}
	l.pending = append([]string(nil), l.pending[n:]...)
	return uses
}

func (l *ledger) end(uses []db.Use, standings map[string]db.Standing, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range uses {
		a := l.accounts[u.KeyID]
		if err != nil {
			add(&a.unsettled, a.settling)
			a.settling = db.Use{}
			l.ring(u.KeyID, a)
			continue
		}
		a.settling = db.Use{}
		if s, ok := standings[u.KeyID]; ok {
			requests, tokens := a.requests.limit, a.tokens.limit
			a.stand(&requests, &tokens, s, now)
		}
	}
	if len(l.pending) > 0 {
		l.ring(l.pending[0], l.accounts[l.pending[0]])
	}
	l.sweep(now)
}

// sweep forgets accounts that were not used for long. A key that is used again is learned again: the verifier's
// verdicts live shorter.
func (l *ledger) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for id, a := range l.accounts {
		if !a.waiting && now.Sub(a.used) > idleAccount {
			delete(l.accounts, id)
		}
	}
}

func add(to *db.Use, u db.Use) {
	to.TakenRequests += u.TakenRequests
	to.TakenTokens += u.TakenTokens
	to.Requests += u.Requests
	to.Cached += u.Cached
	to.Unpriced += u.Unpriced
	to.PromptTokens += u.PromptTokens
	to.CompletionTokens += u.CompletionTokens
	to.CostMicros += u.CostMicros
	to.SavedMicros += u.SavedMicros
}
