package llm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// lead asks the upstream. With a lease, others may read along: the answer is written to the log too.
func (s *Service) lead(f *flight, l *lease) {
	f.leads = true
	if l == nil {
		f.alone()
		s.generate(f, newRetake(f, 0), func() {})
		s.settle(f)
		return
	}
	v := f.now(0)
	p := &pump{log: s.cfg.Log, tape: f.tape, lease: l, attempt: l.attempt, limit: min(s.cfg.MaxMessageBytes, 256<<10), base: f.req.base,
		spacing: s.spacing, take: v.take, next: len(v.events), headOut: v.head != nil}
	// The pump outlives the flight's own time: what came must reach those who read along.
	run := func() error {
		err := p.run(s.life, s.stopping)
		if err != nil && !errors.Is(err, errUntold) && !s.stopping() {
			s.elector.land(l, false) // so that those who wait for it look for another leader
		}
		return err
	}
	var pumped chan error
	pump := func() {
		pumped = make(chan error, 1)
		go func() { pumped <- run() }()
	}
	s.generate(f, newRetake(f, l.attempt), pump)
	if pumped == nil && l.isFollowed() {
		pump() // it came whole, and others wait for it
	}
	s.settle(f)
	var err error
	if pumped != nil {
		err = <-pumped
	} else {
		err = run()
	}
	if errors.Is(err, errUntold) {
		if s.untold(f, l) {
			return
		}
		if err = p.write(s.life, f.now(0), s.stopping()); err != nil {
			s.elector.land(l, false)
		}
	}
	if err != nil && !s.stopping() {
		s.cfg.Logger.Warn("an answer could not be written to the log: other replicas ask for themselves", "id", v.id, "error", err)
	}
	if err == nil && !s.stopping() {
		s.elector.land(l, f.stored)
	}
}

// untoldWithin is how long the database may take to say whether somebody follows a flight that has ended.
const untoldWithin = 5 * time.Second

// untold ends a flight whose answer is in no channel, unless another replica has joined: then it returns false.
func (s *Service) untold(f *flight, l *lease) (ended bool) {
	t := time.NewTimer(untoldWithin)
	defer t.Stop()
	select {
	case gone := <-s.elector.leave(l, f.stored):
		return gone
	case <-t.C:
		s.elector.land(l, false)
		return true
	case <-s.life.Done():
		return true // the heart's last beat ends it
	}
}

// stopping says whether flights are cut short because the replica stops: then others take them over.
func (s *Service) stopping() bool { return s.life.Err() != nil }

// generate asks, and puts what comes onto the tape. It ends the tape. A stream's beginning it tells.
func (s *Service) generate(f *flight, out *retake, begun func()) {
	ans, err := s.client.ask(f.ctx, f.req.question())
	f.unload()
	if err != nil {
		s.failed(f, out, err)
		return
	}
	defer ans.close()
	f.upstream, f.model = ans.route.upstream, ans.route.model
	if ans.StatusCode != http.StatusOK {
		out.finish(flightEnd{Failure: refused(ans, f.req.ownKey)})
		return
	}
	kind, _, _ := mime.ParseMediaType(ans.Header.Get("Content-Type"))
	v := f.now(0)
	h := flightHead{Endpoint: f.req.endpoint, Scope: hashed(f.req.base, v.id), Model: f.req.model, Upstream: f.upstream.Name, There: f.model, Stream: kind == "text/event-stream",
		Usage: f.req.stream}
	if h.Stream {
		out.begin(h)
		begun()
		err = s.readStream(f, ans, out)
	} else {
		err = readObject(f, ans, h, out)
	}
	if err != nil {
		if cause := context.Cause(ans.ctx); cause != nil {
			err = cause
		}
		s.failed(f, out, err)
	}
}

func (s *Service) failed(f *flight, out *retake, err error) {
	if cause := context.Cause(f.ctx); cause != nil {
		err = cause
	}
	fl := failureOf(err)
	if errors.Is(err, errBroken) {
		fl.RetryAfter = strconv.Itoa(int(s.client.retryIn(f.req.routes).Seconds() + 0.5))
	}
	out.finish(flightEnd{Failure: fl})
}

// readStream reads events until the stream ends.
func (s *Service) readStream(f *flight, ans *answer, out *retake) error {
	idle := time.AfterFunc(f.upstream.IdleTimeout, func() { ans.cancel(errSilent) })
	defer idle.Stop()
	var p sseParser
	var batch []event
	done, failed := false, false
	keep := func(e event) {
		switch {
		case done:
		case string(e.data) == string(doneMark):
			done = true
		default:
			done = ends(f.req.endpoint, e)
			if isError(e) {
				e.data, failed = scrub(e.data, ans.route.upstream.Key, f.req.ownKey), true
			}
			batch = append(batch, e)
		}
	}
	piece := make([]byte, 32<<10)
	for {
		n, err := ans.Body.Read(piece)
		idle.Reset(f.upstream.IdleTimeout)
		parse := p.feed(piece[:n], keep)
		ended := err != nil || done
		if ended && parse == nil && !done {
			f.whole = p.end(keep) && f.whole
		}
		if len(batch) > 0 {
			if f.firstAt.IsZero() {
				f.firstAt = time.Now()
			}
			if !out.add(batch...) {
				return errTooLarge
			}
			batch = nil
		}
		f.whole = f.whole && !p.mended && !failed
		switch {
		case parse != nil:
			return parse
		case done:
			out.finish(flightEnd{Done: true, Unfit: !f.whole, Fallback: ans.fallback})
			return nil
		case failed && ended:
			out.finish(flightEnd{}) // the upstream has said what is wrong
			return nil
		case errors.Is(err, io.EOF):
			return errTruncated
		case err != nil:
			return fmt.Errorf("%w: %w", errTruncated, err)
		}
	}
}

// readObject reads an answer that comes whole.
func readObject(f *flight, ans *answer, h flightHead, out *retake) error {
	b, err := io.ReadAll(io.LimitReader(ans.Body, maxObjectBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errTruncated, err)
	case len(b) > maxObjectBytes:
		return errTooLarge
	}
	f.firstAt = time.Now()
	n, err := parseAnswer(b)
	switch {
	case errors.Is(err, errTooMany): // for its own client alone
		out.whole(h, b, flightEnd{Done: true, Unfit: true})
		return nil
	case err != nil:
		return errNotAnswer
	case n.kind == '{' && n.get("error").kind == '{' && !n.get("choices").has() && !n.get("output").has():
		out.finish(flightEnd{Failure: &failure{Status: http.StatusBadGateway, Code: "upstream_error", Body: string(scrub(b, ans.route.upstream.Key, f.req.ownKey)), Temporary: true}})
		return nil
	}
	out.whole(h, b, flightEnd{Done: true, Complete: isComplete(f.req.endpoint, n, f.req.choices), Fallback: ans.fallback})
	return nil
}

var errNotAnswer = errors.New("the upstream's answer is not JSON")

// isError says whether an event tells of an error.
func isError(e event) bool {
	if e.name == "" && !mayBeError(e.data) {
		return false
	}
	switch typeOf(e) {
	case "error", "response.failed":
		return true
	}
	if !bytes.Contains(e.data, []byte(`"error"`)) {
		return false
	}
	n, err := parseAnswer(e.data)
	return err == nil && n.get("error").has()
}

// mayBeError is a quick look: at every token's event. Escapes may spell anything.
func mayBeError(data []byte) bool {
	return bytes.Contains(data, []byte(`error"`)) || bytes.Contains(data, []byte(`response.failed`)) || bytes.Contains(data, []byte(`\u00`))
}

// toldFailure is the failure of a stream whose last event told of an error: for whoever wants the whole, the part
// before it is no answer.
func toldFailure(v view) *failure {
	fl := failureOf(errTruncated)
	if n := len(v.events); n > 0 {
		if e, err := parseJSON(v.events[n-1].data); err == nil && e.get("error").kind == '{' {
			fl.Code, fl.Body = "upstream_error", string(v.events[n-1].data)
		}
	}
	return fl
}

// refused is the failure of an answer with another status than 200.
func refused(ans *answer, ownKey string) *failure {
	fl := &failure{Status: ans.StatusCode, Code: "upstream_error", Temporary: isRetryable(ans.Response), RetryAfter: ans.Header.Get("Retry-After")}
	b, err := io.ReadAll(io.LimitReader(ans.Body, maxErrorBytes))
	if n, bad := parseJSON(b); err == nil && bad == nil && n.kind == '{' {
		fl.Body = string(scrub(b, ans.route.upstream.Key, ownKey))
	} else {
		fl.Message = fmt.Sprintf("the upstream answered with status %d", ans.StatusCode)
	}
	return fl
}

// scrub takes keys out of what an upstream says of an error: it may quote the one that it was sent, which is not the
// caller's to know, nor the log's.
func scrub(text []byte, keys ...string) []byte {
	for _, key := range keys {
		if key != "" && key != PassThrough {
			text = bytes.ReplaceAll(text, []byte(key), []byte("[key]"))
		}
	}
	return text
}

// failureOf is what readers are told of an error.
func failureOf(err error) *failure {
	fl := &failure{Status: http.StatusBadGateway, Code: "upstream_unreachable", Message: "the upstream could not be reached", Temporary: true}
	say := func(status int, code string, err error) {
		fl.Status, fl.Code, fl.Message = status, code, err.Error()
	}
	switch {
	case errors.Is(err, errBroken):
		say(http.StatusServiceUnavailable, "upstream_unavailable", errBroken)
	case errors.Is(err, errSilent), errors.Is(err, context.DeadlineExceeded):
		say(http.StatusGatewayTimeout, "upstream_timeout", errSilent)
	case errors.Is(err, errTruncated):
		say(http.StatusBadGateway, "upstream_truncated", errTruncated)
	case errors.Is(err, errTooLarge), errors.Is(err, errEventTooLarge):
		say(http.StatusBadGateway, "upstream_answer_too_large", errTooLarge)
	case errors.Is(err, errNotAnswer):
		say(http.StatusBadGateway, "upstream_invalid_json", errNotAnswer)
	case errors.Is(err, errRedirect):
		say(http.StatusBadGateway, "upstream_redirect", errRedirect)
	case errors.Is(err, errNoKey):
		say(http.StatusUnauthorized, "upstream_key_missing", errNoKey)
		fl.Temporary = false
	case errors.Is(err, errStopping):
		say(http.StatusServiceUnavailable, "shutting_down", errStopping)
	case errors.Is(err, errLeft):
		say(499, "client_left", errLeft)
	case errors.Is(err, errInterrupted):
		say(http.StatusBadGateway, "stream_interrupted", errInterrupted)
	}
	return fl
}

var (
	errLeft        = errors.New("the client has left")
	errInterrupted = errors.New("the replica that generated the answer is gone, and what its successor got is another one")
)
