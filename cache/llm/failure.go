package llm

import (
	"encoding/json"
	"net/http"
	"strconv"
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
		rd.gaveStale = true
		rd.s.replay(rd.w, rd.req, rd.stale, Stale)
		return nil
	}
	rd.status, rd.code = fl.Status, fl.Code
	h := http.Header{"Cache-Status": {status("fwd=miss", "fwd-status="+strconv.Itoa(fl.Status))}}
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

// note writes down what became of a request that did not lead a flight; the flight itself does for the one that did.
func (rd *reader) note(f *flight, err error) {
	if rd.how == Miss || rd.how == Bypass || rd.gaveStale {
		return
	}
	v := f.now(0)
	run := rd.req.run(rd.how, v.id)
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
	select {
	case <-f.settled:
	default:
		if err == nil {
			<-f.settled // soon: the answer has ended
		}
	}
	select {
	case <-f.settled:
		if f.rec != nil {
			run.PromptTokens, run.CompletionTokens, run.SavedMicros = f.rec.Prompt, f.rec.Completion, f.rec.CostMicros
		}
	default:
	}
	run.Bodies = rd.req.bodies(func() []byte { return told(rd.req.endpoint, v) })
	rd.s.note(rd.req, run, max(0, rd.req.started.Sub(rd.began)))
}
