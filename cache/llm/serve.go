package llm

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"forgewire/infra/monitor"
)

// Handler serves POST of one endpoint: chat/completions, responses, embeddings or completions.
func (s *Service) Handler(path string) http.HandlerFunc {
	e := endpoint(path)
	return func(w http.ResponseWriter, r *http.Request) {
		req, refusal := s.read(w, r, e)
		if refusal != nil {
			refusal.Write(w)
			return
		}
		s.answer(w, r, req)
	}
}

// answer gives what the cache has, or joins or starts a flight.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, req *request) {
	out := s.output(w)
	cacheable := s.cfg.Mode.cacheable(req)
	var stale *hit
	var b *bid
	if cacheable && !req.controls.noCache {
		var fresh bool
		if stale, fresh, b = s.lookup(r.Context(), req); fresh {
			s.unbid(b)
			s.note(s.replay(out, req, stale, Hit))
			return
		}
	}
	how := Bypass
	if cacheable {
		how = Miss
	}
	if req.controls.onlyIfCached {
		s.refuse(out, req, how, &Refusal{Status: http.StatusGatewayTimeout, Type: typeInvalid, Code: "not_cached", Message: "the answer is not in the cache, and only-if-cached was asked for",
			Header: http.Header{"Cache-Status": {status("detail=only-if-cached")}}})
		return
	}
	req.standIn = stale != nil
	f, joined, why := s.take(req, cacheable && !req.controls.noCache)
	s.unbid(b)
	if why != nil {
		s.refuse(out, req, how, why)
		return
	}
	if joined {
		how = Collapsed
	}
	reader := &reader{s: s, w: out, req: req, tape: f.tape, how: how, joined: joined, stale: stale, began: f.started, resumable: f.shares}
	err := reader.serve(r.Context())
	if err != nil && !f.shares && !f.joins {
		f.cancel(errLeft) // nobody else wants it, and nobody can resume it
	}
	reader.note(f, err)
}

// refuse answers a request that may not wait for a model.
func (s *Service) refuse(w http.ResponseWriter, req *request, how Outcome, why *Refusal) {
	why.Write(w)
	run := req.run(how, "")
	run.Status, run.Error, run.Duration = why.Status, why.Code, time.Since(req.started)
	run.Bodies = req.bodies(func() []byte { return why.body() })
	s.note(req, run, 0)
}

// reader gives one client the answer that a tape holds, as it comes.
type reader struct {
	s         *Service
	w         *output
	req       *request
	tape      *tape
	how       Outcome
	joined    bool // somebody else caused the flight
	stale     *hit // what may stand in for a failure
	began     time.Time
	resumable bool
	take      int // resume: of what the client has
	after     int // resume: how many events of it
	first     time.Time
	quiet     *time.Timer // of a stream: fires when it has been silent for long
	wrote     bool        // the response has begun
	status    int
	code      string
	gaveStale *Run // what became of the request that stale was given for
}

func (rd *reader) serve(ctx context.Context) error {
	if rd.req.stream {
		return rd.stream(ctx)
	}
	waiting := monitor.Span(ctx, monitor.Upstream)
	v, err := rd.tape.ended(ctx)
	waiting.End()
	if err != nil {
		return err
	}
	if v.end.Failure == nil && !v.end.Done {
		v.end = &flightEnd{Failure: toldFailure(v)}
	}
	if v.end.Failure != nil {
		return rd.fail(v)
	}
	rec := &recording{recordingHead: recordingHead{Endpoint: rd.req.endpoint}, events: v.events, object: v.object}
	body, err := rec.asObject()
	if err != nil {
		v.end = &flightEnd{Failure: failureOf(errTruncated)}
		return rd.fail(v)
	}
	rd.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	rd.headers(v, "application/json")
	rd.first = time.Now()
	_, err = rd.w.Write(body) // with its length, so that the server sends it when the handler returns, in one piece
	return err
}

// outcome is what the cache had to do with an answer that was not in it.
func (rd *reader) outcome(v view) Outcome {
	if rd.how == Miss && v.remote {
		return Collapsed
	}
	return rd.how
}

// headers begins the response, unless it has begun.
func (rd *reader) headers(v view, contentType string) {
	if rd.wrote {
		return
	}
	h := rd.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	setCacheHeaders(h, rd.outcome(v), rd.req, 0, 0)
	if rd.resumable {
		h.Set(HeaderID, v.id)
	}
	if rd.req.stream {
		h.Set("Cache-Control", "no-store, no-transform") // no-transform: compressing proxies collect before they send
		h.Set("X-Accel-Buffering", "no")                 // nginx
	}
	rd.status = http.StatusOK
	rd.w.WriteHeader(http.StatusOK)
	rd.wrote = true
}

func (rd *reader) write(b []byte) error {
	if rd.quiet != nil {
		defer rd.quiet.Reset(rd.s.quietFor)
	}
	if _, err := rd.w.Write(b); err != nil {
		return err
	}
	return rd.w.flush()
}

// wait waits for more of a stream. Whoever waits for long is told that it lives, but not before it is known that there
// is a stream at all: until then a failure can be told by the status.
func (rd *reader) wait(ctx context.Context, n int, ready func(view) bool) (view, error) {
	for {
		v, err := rd.tape.waitWhile(ctx, n, ready, rd.quiet.C)
		if !errors.Is(err, errQuiet) {
			return v, err
		}
		if !rd.wrote && !v.remote && (v.head == nil || !v.head.Stream) {
			rd.quiet.Reset(rd.s.quietFor)
			continue
		}
		rd.headers(v, eventStream)
		if err := rd.write([]byte(alive)); err != nil {
			return v, err
		}
	}
}

// stream writes events as they come.
func (rd *reader) stream(ctx context.Context) error {
	rd.quiet = time.NewTimer(rd.s.quietFor)
	defer rd.quiet.Stop()
	// Not before the first event, if it comes soon: until then a failure can be told by the status.
	waiting := monitor.Span(ctx, monitor.Upstream)
	v, err := rd.wait(ctx, rd.after, func(v view) bool {
		return (v.take >= rd.take || rd.take == loneTake) && v.head != nil && v.head.Stream && (len(v.events) > 0 || rd.after > 0)
	})
	waiting.End()
	if err != nil {
		return err
	}
	if v.head == nil || v.end != nil && v.end.Failure != nil && len(v.events) == 0 && rd.after == 0 {
		return rd.fail(v)
	}
	rd.resumable = rd.resumable && v.head.Stream // what came whole is in no channel
	rd.headers(v, eventStream)
	if rd.after > 0 && (v.take != rd.take || v.held >= 0 && rd.after > v.held) {
		return rd.errorEvent(rd.after, failureOf(errInterrupted))
	}
	if !v.head.Stream {
		return rd.whole(ctx)
	}
	if len(v.events) == 0 {
		if err := rd.w.flush(); err != nil {
			return err
		}
	}
	take, n := v.take, rd.after
	for {
		if v.take != take {
			if n > 0 {
				return rd.errorEvent(n, failureOf(errInterrupted))
			}
			take = v.take
		}
		b, err := rd.render(v, n), error(nil)
		n += len(v.events)
		if v.end != nil && v.end.Failure == nil && v.end.Done && rd.req.endpoint != responses {
			b = event{data: doneMark}.append(b, "")
		}
		if len(b) > 0 {
			if rd.first.IsZero() {
				rd.first = time.Now()
			}
			if err = rd.write(b); err != nil {
				return err
			}
		}
		if v.end != nil {
			if v.end.Failure != nil {
				return rd.errorEvent(n, v.end.Failure)
			}
			return nil
		}
		if v, err = rd.wait(ctx, n, func(v view) bool { return len(v.events) > 0 || v.take != take || v.held >= 0 && rd.after > v.held }); err != nil {
			return err
		}
		if v.held >= 0 && rd.after > v.held {
			return rd.errorEvent(n, failureOf(errInterrupted))
		}
	}
}

// render writes a view's events, which begin with number n, each with its number as its id.
func (rd *reader) render(v view, n int) (b []byte) {
	for i, e := range v.events {
		if rd.req.endpoint.hasUsageOption() {
			var ok bool
			if e, ok = withUsage(e, rd.req.usage); !ok {
				continue
			}
		}
		id := ""
		if rd.resumable {
			e, id = e.at(rd.req.endpoint, v.turn(), n+i)
		}
		b = e.append(b, id)
	}
	return b
}

// whole writes an answer that came in one piece as a stream.
func (rd *reader) whole(ctx context.Context) error {
	waiting := monitor.Span(ctx, monitor.Upstream)
	v, err := rd.wait(ctx, 0, func(view) bool { return false })
	waiting.End()
	if err != nil {
		return err
	}
	rec := &recording{recordingHead: recordingHead{Endpoint: rd.req.endpoint}, object: v.object, events: v.events}
	events, err := rec.asEvents(rd.req.usage)
	if err != nil {
		return rd.errorEvent(0, failureOf(errNotAnswer))
	}
	rd.first = time.Now()
	return rd.write(numbered(events, rd.req.endpoint, v.turn(), rd.after))
}

// takeBits is how far the take is above an event's number in what a client resumes with. An answer has fewer events.
const takeBits = 24

// loneTake is that of an answer which is in no channel, though it goes by the id of one that is: whoever would go on with it
// is told that he cannot.
const loneTake = 1<<(31-takeBits) - 1

// turn is the take as clients are told of it.
func (v view) turn() int {
	if v.lone {
		return loneTake
	}
	return v.take
}

// at returns an event as clients get the one with that number, and its id. They resume with the id, or, as the SDKs do
// with responses, with the number inside: both must say which take they have the beginning of.
func (e event) at(kind endpoint, take, number int) (event, string) {
	id := strconv.Itoa(take<<takeBits | number)
	if take > 0 && kind == responses {
		if n, err := parseJSON(e.data); err == nil && n.get("sequence_number").has() {
			e.data = n.with("sequence_number", []byte(id))
		}
	}
	return e, id
}

// numbered writes events from a number on, each with its id.
func numbered(events []event, kind endpoint, take, from int) (b []byte) {
	for i, e := range events {
		switch {
		case string(e.data) == string(doneMark):
			b = e.append(b, "")
		case i >= from:
			e, id := e.at(kind, take, i)
			b = e.append(b, id)
		}
	}
	return b
}
