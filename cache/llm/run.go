package llm

import "time"

// Outcome is what the cache had to do with a run.
type Outcome string

// The outcomes.
const (
	Hit       Outcome = "hit"       // answered from the cache
	Miss      Outcome = "miss"      // the upstream was called for it
	Collapsed Outcome = "collapsed" // it joined a call that was under way
	Stale     Outcome = "stale"     // the upstream failed, and an answer past its time was given instead
	Bypass    Outcome = "bypass"    // passed through: not cacheable, or the request asked for it
)

// Run is one request and what became of it, without a word of it.
type Run struct {
	ID               string // of the answer: see the header Forgewire-Id
	Tenant, KeyID    string
	Endpoint         string // chat/completions, responses, …
	Model            string // as it was asked for
	Upstream         string // who answered; "" if nobody was asked
	Status           int    // HTTP
	Cache            Outcome
	RequestHash      string // the key, hexadecimal
	PromptTokens     int64
	CompletionTokens int64
	CostMicros       int64 // of what the upstream was asked for: 0 unless Cache is Miss or Bypass; in millionths of the price's unit
	SavedMicros      int64 // what it would have cost otherwise
	Started          time.Time
	FirstToken       time.Duration // from Started; 0 if there was none
	Duration         time.Duration
	Error            string // the code of the error, or ""
}

// Record takes the run of each request when it has ended. It must not block.
type Record func(Run)
