package llm

import (
	"bytes"
	"time"
)

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
	Error            string  // the code of the error, or ""
	Bodies           *Bodies // nil unless the request or its key asked for it
}

// Bodies are what was asked and what was answered, the latter as an object, however it was asked for.
type Bodies struct {
	Request, Answer []byte
	Cut             bool // one of them was longer than MaxLoggedBytes
}

// MaxLoggedBytes bounds each of the two bodies of a run.
const MaxLoggedBytes = 64 << 10

func (req *request) logsBodies() bool {
	if wanted := req.controls.logBodies; wanted != nil {
		return *wanted
	}
	return req.caller.LogBodies
}

// bodies are what a run keeps of a request; nil unless somebody asked for it.
func (req *request) bodies(answer func() []byte) *Bodies {
	if !req.logsBodies() {
		return nil
	}
	b := &Bodies{Request: req.body.raw, Answer: answer()}
	for _, part := range []*[]byte{&b.Request, &b.Answer} {
		if len(*part) > MaxLoggedBytes {
			*part, b.Cut = (*part)[:MaxLoggedBytes], true
		}
		*part = bytes.Clone(*part) // it outlives the rest
	}
	return b
}

// told is what a tape told its readers, in one piece.
func told(e endpoint, v view) []byte {
	rec := recording{recordingHead: recordingHead{Endpoint: e}, events: v.events, object: v.object}
	if v.object != nil || len(v.events) > 0 {
		if b, err := rec.asObject(); err == nil {
			return b
		}
	}
	if v.end == nil || v.end.Failure == nil {
		return nil
	}
	if v.end.Failure.Body != "" {
		return []byte(v.end.Failure.Body)
	}
	return quote(v.end.Failure.Message)
}

// Record takes the run of each request when it has ended. It must not block.
type Record func(Run)
