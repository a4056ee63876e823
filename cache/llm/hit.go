package llm

import (
	"context"
	"net/http"
	"time"

	"forgewire/cache"
)

// A hit is an answer from the cache.
type hit struct {
	rec      *recording
	age, ttl time.Duration // ttl is what is left: negative for a stale one
}

// lookup asks the cache. A hit that is not fresh may stand in for an upstream that fails. If Valkey has to be asked, a
// bid is made meanwhile, which is the caller's to let go.
func (s *Service) lookup(ctx context.Context, req *request) (h *hit, fresh bool, b *bid) {
	asked := false
	entry, ok := s.cfg.Cache.GetWhile(ctx, cacheKey(req.key), func() {
		asked = true
		if !req.controls.onlyIfCached {
			b = s.bid(req)
		}
	})
	if asked {
		s.odds.note(ok)
	}
	h, fresh = req.judge(entry, ok)
	return h, fresh, b
}

// judge says what an entry is worth for a request. One that is older than the request's max-age is worth nothing, also
// where the upstream fails.
func (req *request) judge(entry cache.Entry, ok bool) (h *hit, fresh bool) {
	if !ok {
		return nil, false
	}
	rec, err := decodeRecording(entry.Value)
	if err != nil || rec.Scope != hashed(req.scope) || rec.Endpoint != req.endpoint {
		return nil, false // of another version, or not what we stored there
	}
	age := max(0, time.Since(entry.Stored)) // another replica's clock may be ahead
	if !req.controls.fresh(age) {
		return nil, false
	}
	h = &hit{rec: rec, age: age, ttl: entry.TTL - age}
	return h, !entry.Stale && h.ttl > 0
}

// replay answers from the cache. It returns what note takes.
func (s *Service) replay(w *output, req *request, h *hit, how Outcome) (_ *request, run Run, avoided time.Duration) {
	run = req.run(how, h.rec.ID)
	body, contentType, err := h.render(req)
	if err != nil {
		why := &Refusal{Status: http.StatusInternalServerError, Type: typeServer, Code: "internal_error", Message: "the stored answer cannot be read"}
		why.Write(w)
		run.Status, run.Error, run.Duration = why.Status, why.Code, time.Since(req.started)
		return req, run, 0
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("X-Content-Type-Options", "nosniff")
	if !req.stream || s.continues(h) {
		header.Set(HeaderID, h.rec.ID)
	}
	setCacheHeaders(header, how, req, h.age, h.ttl)
	w.WriteHeader(http.StatusOK)
	run.FirstToken = time.Since(req.started)
	run.Status, run.Upstream = http.StatusOK, h.rec.Upstream
	if _, err := w.Write(body); err != nil {
		run.Status, run.Error = 499, "client_left"
	}
	run.Duration = time.Since(req.started)
	run.PromptTokens, run.CompletionTokens, run.SavedMicros = h.rec.Prompt, h.rec.Completion, h.rec.CostMicros
	run.Bodies = req.bodies(func() []byte { return told(req.endpoint, view{object: h.rec.object, events: h.rec.events}) })
	return req, run, max(0, h.rec.Duration-run.Duration)
}

// continues says whether the answer can be resumed: it was told as a stream, and the log has not dropped it. Whoever
// loses a hit that cannot asks again.
func (s *Service) continues(h *hit) bool {
	return h.rec.object == nil && h.age+h.rec.Duration < s.cfg.LogKept
}

func (h *hit) render(req *request) ([]byte, string, error) {
	if !req.stream {
		b, err := h.rec.asObject()
		return b, "application/json", err
	}
	events, err := h.rec.asEvents(req.usage)
	if err != nil {
		return nil, "", err
	}
	return numbered(events, req.endpoint, 0, 0), eventStream, nil
}
