package llm

import (
	"encoding/json"
	"net/http"
	"time"
)

// fail answers a request that got no answer: with an older one, if that is better, or with what went wrong.
func (rd *reader) fail(v view) error {
	fl := v.end.Failure
	if fl == nil {
		fl = failureOf(errTruncated)
	}
	if rd.wrote {
		return rd.errorEvent(rd.after, fl) // too late for another status, or another answer
	}
	if rd.stale != nil && fl.Temporary {
		_, run, _ := rd.s.replay(rd.w, rd.req, rd.stale, Stale)
		rd.gaveStale = &run
		return nil
	}
	rd.status, rd.code = fl.Status, fl.Code
	h := http.Header{}
	setCacheHeaders(h, rd.outcome(v), rd.req, 0, 0)
	if fl.RetryAfter != "" {
		h.Set("Retry-After", fl.RetryAfter)
	}
	if fl.Body == "" {
		(&Refusal{Status: fl.Status, Type: typeUpstream, Code: fl.Code, Message: fl.Message, Header: h}).Write(rd.w)
		return nil
	}
	for name, values := range h {
		rd.w.Header()[name] = values
	}
	rd.w.Header().Set("Content-Type", "application/json")
	rd.w.Header().Set("Cache-Control", "no-store")
	rd.w.Header().Set("X-Content-Type-Options", "nosniff")
	rd.w.WriteHeader(fl.Status)
	_, err := rd.w.Write([]byte(fl.Body))
	return err
}

// errorEvent ends a stream that cannot go on, in the form that makes the OpenAI SDKs raise an error.
func (rd *reader) errorEvent(n int, fl *failure) error {
	rd.code = fl.Code
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	e := struct {
		Type     string  `json:"type,omitempty"`
		Code     string  `json:"code,omitempty"`
		Message  string  `json:"message,omitempty"`
		Sequence *int    `json:"sequence_number,omitempty"`
		Error    *detail `json:"error,omitempty"`
	}{Error: &detail{Message: fl.Message, Type: typeUpstream, Code: fl.Code}}
	name := ""
	if rd.req.endpoint == responses {
		name, e.Type, e.Code, e.Message, e.Sequence = "error", "error", fl.Code, fl.Message, &n
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return rd.write(event{name: name, data: b}.append(nil, ""))
}

// note writes down what became of a request. Of the one that caused the flight it is known only when both have ended.
func (rd *reader) note(f *flight, err error) {
	run := rd.run(f, err)
	if !rd.joined {
		rd.s.account(f, run)
		return
	}
	if err == nil {
		<-f.settled // soon: the answer has ended
	}
	select {
	case <-f.settled:
		run.save(f)
	default:
	}
	rd.s.note(rd.req, *run, max(0, rd.req.started.Sub(rd.began)))
}

// run is what became of a request that did not lead.
func (rd *reader) run(f *flight, err error) *Run {
	if rd.gaveStale != nil {
		return rd.gaveStale
	}
	v := f.now(0)
	how := Collapsed
	if rd.how == Bypass {
		how = Bypass
	}
	run := rd.req.run(how, v.id)
	run.Duration = time.Since(rd.req.started)
	run.Status, run.Error = rd.status, rd.code
	if err != nil {
		run.Status, run.Error = 499, "client_left"
	}
	if !rd.first.IsZero() {
		run.FirstToken = rd.first.Sub(rd.req.started)
	}
	if v.head != nil {
		run.Upstream = v.head.Upstream
	}
	run.Bodies = rd.req.bodies(func() []byte { return told(rd.req.endpoint, v) })
	return &run
}

// save adds what a run that read along did not have to pay.
func (r *Run) save(f *flight) {
	if f.rec != nil && r.Cache == Collapsed {
		r.PromptTokens, r.CompletionTokens, r.SavedMicros = f.rec.Prompt, f.rec.Completion, f.rec.CostMicros
	}
}

// account notes the run of whoever caused a flight, once: it is called when he has ended, with what he got, and when the flight has. What
// the call of an upstream cost is the flight's to know, and told at once, unless something older may be given in its place.
func (s *Service) account(f *flight, asker *Run) {
	f.accounts.Lock()
	defer f.accounts.Unlock()
	if asker != nil {
		f.asker = asker
	}
	select {
	case <-f.settled:
	default:
		return
	}
	run := f.run
	switch {
	case f.noted:
		return
	case run == nil || run.Error != "" && f.req.standIn:
		if f.asker == nil {
			return // he is still there
		}
		if run == nil || f.asker.Cache == Stale {
			run = f.asker
			run.save(f)
		}
	}
	f.noted = true
	s.note(f.req, *run, 0)
}
