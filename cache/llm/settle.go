package llm

import (
	"context"
	"errors"
	"runtime"
	"time"

	"forgewire/cache"
)

// storeWithin bounds what storing an answer may take: nobody waits for it, but the flight's end does.
const storeWithin = 2 * time.Second

// settle keeps what a flight brought: the recording, if it is complete, and the run of whoever caused it.
func (s *Service) settle(f *flight) {
	defer s.end(f)
	runtime.Gosched() // who waits for the answer comes first
	v := f.now(0)
	var u usage
	if v.end != nil && v.head != nil && (v.object != nil || len(v.events) > 0) {
		f.rec = s.record(f, v)
		u = usage{f.rec.Prompt, f.rec.Completion}
		if v.end.Done && v.end.Failure == nil && f.stores && !v.end.Unfit && !f.purged.Load() {
			s.store(f, v.end)
		}
	}
	if !f.stored {
		s.close(f) // nobody may join what is no answer, however long the log takes to hear of it
	}
	if !f.leads {
		return
	}
	run := f.req.run(Bypass, v.id)
	if f.stores {
		run.Cache = Miss
	}
	run.Status, run.Error = outcomeOf(v)
	if u == (usage{}) && f.upstream != nil && (v.object != nil || len(v.events) > 0 || errors.Is(context.Cause(f.ctx), errLeft)) {
		u = f.estimate(v)
	}
	run.PromptTokens, run.CompletionTokens = u.prompt, u.completion
	run.Duration = time.Since(f.req.started)
	if !f.firstAt.IsZero() {
		run.FirstToken = f.firstAt.Sub(f.req.started)
	}
	if f.upstream != nil {
		run.Upstream = f.upstream.Name
		run.CostMicros = f.upstream.cost(f.model, u)
	}
	run.Bodies = f.req.bodies(func() []byte { return told(f.req.endpoint, v) })
	f.run = &run
}

// end tells that rec is known, or never will be.
func (s *Service) end(f *flight) {
	f.settle.Do(func() {
		close(f.settled)
		s.account(f, nil)
	})
}

// Of estimates, in bytes.
const (
	perToken = 4
	envelope = 250 // what surrounds an event's text
)

// estimate is the usage of an answer that came without: the upstream tells it last, if at all. Who hangs up just before
// the end would else pay for nothing, and no limit would hold him.
func (f *flight) estimate(v view) usage {
	u := usage{prompt: int64(f.asked/perToken + 1)}
	if v.object != nil && f.req.endpoint != embeddings {
		u.completion = int64(max(1, (len(v.object)-envelope)/perToken))
	}
	for _, e := range v.events {
		u.completion += int64(max(1, (len(e.data)-envelope)/perToken))
	}
	return u
}

// record makes the recording of what a tape holds, complete or not.
func (s *Service) record(f *flight, v view) *recording {
	r := &recording{events: v.events, object: v.object, recordingHead: recordingHead{ID: v.id, Scope: hashed(f.req.scope), Base: hashed(f.req.base), Endpoint: f.req.endpoint,
		Model: f.req.model, Upstream: v.head.Upstream, Duration: time.Since(f.started), Usage: v.head.Usage}}
	if v.lone {
		r.ID = f.first // what the other id opens is another answer
	}
	if !f.firstAt.IsZero() {
		r.FirstToken = f.firstAt.Sub(f.started)
	}
	var u usage
	if v.object != nil {
		if n, err := parseAnswer(v.object); err == nil {
			u = usageOf(n)
		}
	} else {
		u = usageOfEvents(v.events)
	}
	r.Prompt, r.Completion = u.prompt, u.completion
	if up := s.client.upstreams.byName(v.head.Upstream); up != nil {
		model := v.head.There
		if model == "" { // of an older release
			model = f.req.model
		}
		r.CostMicros = up.cost(model, u)
	}
	return r
}

// usageOfEvents finds the last usage that a stream told.
func usageOfEvents(events []event) usage {
	for i := len(events) - 1; i >= 0; i-- {
		if !hasUsage(events[i]) {
			continue
		}
		if n, err := parseAnswer(events[i].data); err == nil {
			if u := usageOf(n); u != (usage{}) {
				return u
			}
		}
	}
	return usage{}
}

// store puts a recording into the cache if it is complete.
func (s *Service) store(f *flight, end *flightEnd) {
	complete := end.Complete // of what came whole, whoever got it has looked
	if f.rec.object == nil {
		object, err := assemble(f.rec.Endpoint, f.rec.events)
		if err != nil {
			return
		}
		n, err := parseAnswer(object)
		complete = err == nil && isComplete(f.req.endpoint, n, f.req.choices)
	}
	if !complete {
		return
	}
	b, err := f.rec.encode()
	if err != nil || len(b) > cache.MaxValueBytes {
		return
	}
	ttl, stale := s.ttl(f.req.controls.class), staleFor
	if end.Fallback {
		ttl, stale = min(ttl, fallbackTTL), 0
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), storeWithin)
	defer cancel()
	// A request that asked for a new answer replaces the old one everywhere.
	s.cfg.Cache.Set(ctx, cacheKey(f.req.key), b, cache.SetOptions{TTL: ttl, StaleFor: stale, Tags: f.req.tags(), Fill: f.joins})
	f.stored = true
	if f.purged.Load() { // in between
		_ = s.cfg.Cache.Delete(ctx, cacheKey(f.req.key)) // what it could not delete, it remembers
	}
}

func cacheKey(k key) string { return "llm:" + k.String() }

// Tags of the cache, under which answers are purged.
func tenantTag(tenant string) string       { return "llm:" + hashed(tenant) }
func modelTag(tenant, model string) string { return "llm:" + hashed(tenant, "model", model) }
func ownTag(tenant, tag string) string     { return "llm:" + hashed(tenant, "tag", tag) }

func (req *request) tags() []string {
	t := req.caller.Tenant
	tags := []string{tenantTag(t), modelTag(t, req.model)}
	for _, own := range req.controls.tags {
		tags = append(tags, ownTag(t, own))
	}
	return tags
}

// outcomeOf is the status that readers of a tape got, and the code of the error, if there was one.
func outcomeOf(v view) (int, string) {
	switch {
	case v.end == nil:
		return 499, "client_left"
	case v.end.Failure == nil && !v.end.Done:
		return 200, "upstream_error" // which its stream told
	case v.end.Failure == nil:
		return 200, ""
	case v.head != nil && len(v.events) > 0:
		return 200, v.end.Failure.Code // too late for another status
	}
	return v.end.Failure.Status, v.end.Failure.Code
}

// run begins the account of a request.
func (req *request) run(how Outcome, id string) Run {
	return Run{ID: id, Tenant: req.caller.Tenant, KeyID: req.caller.KeyID, Endpoint: string(req.endpoint), Model: req.model, Cache: how,
		RequestHash: req.key.String(), Started: req.started}
}

// note takes a run that has ended, and the time that it did not have to wait.
func (s *Service) note(req *request, run Run, avoided time.Duration) {
	s.stats.add(run, req.controls.class, avoided)
	s.cfg.Record(run)
}
