package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

var errGone = errors.New("the replica that generated the answer is gone")

// maxResumes bounds how many clients of one replica resume at once: each may hold an answer of maxAnswerBytes.
const maxResumes = 1024

// Resume serves GET /v1/responses/{id}: an answer of any endpoint that was begun as a stream, by the id in the header
// Forgewire-Id or by the one that the upstream gave it. With stream=true it goes on after the event starting_after,
// while the answer is generated and after that, on any replica; else it waits for the whole.
func (s *Service) Resume(w http.ResponseWriter, r *http.Request, id string) {
	caller, known := CallerFrom(r.Context())
	if !known {
		(&Refusal{Status: http.StatusUnauthorized, Type: typeAuth, Code: "invalid_api_key", Message: "an API key is required: Authorization: Bearer …"}).Write(w)
		return
	}
	q := r.URL.Query()
	after := 0
	if v := q.Get("starting_after"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < -1 {
			invalid("invalid_starting_after", "starting_after must be the number of an event", "starting_after").Write(w)
			return
		}
		after = int(n + 1)
	}
	stream, refusal := wantsStream(w, r)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	base := "tenant:" + caller.Tenant
	if caller.Shared {
		base = "shared"
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // an answer takes longer than a request may
	if s.resumes.Add(1) > maxResumes {
		s.resumes.Add(-1)
		errOverloaded.Write(w)
		return
	}
	defer s.resumes.Add(-1)
	t, err := s.await(r.Context(), base, id)
	if err != nil {
		(&Refusal{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "log_unavailable", Message: "the answer cannot be looked up now", Header: http.Header{"Retry-After": {"1"}}}).Write(w)
		return
	}
	if t == nil {
		(&Refusal{Status: http.StatusNotFound, Type: typeNotFound, Code: "response_not_found", Message: "no streamed answer has this id, or it is no longer kept"}).Write(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	ended := t.start(ctx, s)
	defer func() { cancel(); <-ended }()
	v, err := t.tape.wait(ctx, 0, func(v view) bool { return v.head != nil })
	if err != nil {
		return // the client has left
	}
	if v.head == nil {
		(&Refusal{Status: v.end.Failure.Status, Type: typeUpstream, Code: v.end.Failure.Code, Message: v.end.Failure.Message}).Write(w)
		return
	}
	if !caller.allows(v.head.Model) {
		modelNotAllowed().Write(w)
		return
	}
	req := &request{caller: caller, endpoint: v.head.Endpoint, model: v.head.Model, stream: stream, usage: q.Get("include_usage") == "true" || !v.head.Endpoint.hasUsageOption(), started: time.Now()}
	rd := &reader{s: s, w: s.output(w), req: req, tape: t.tape, how: Collapsed, resumable: true, take: after >> takeBits, after: after & (1<<takeBits - 1)}
	_ = rd.serve(ctx) // whoever resumes again goes on where this ended
}

// maxResumeBody bounds what a request to resume brings: the word "stream", and what a client adds to every body.
const maxResumeBody = 4 << 10

// wantsStream reads whether the answer is wanted as a stream: from the query or, where the published Go SDK has it, a
// JSON body.
func wantsStream(w http.ResponseWriter, r *http.Request) (bool, *Refusal) {
	wrong := invalid("invalid_type", "stream must be true or false", "stream")
	switch r.URL.Query().Get("stream") {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "":
	default:
		return false, wrong
	}
	if r.ContentLength == 0 {
		return false, nil
	}
	text, refusal := readBody(w, r, maxResumeBody)
	if refusal != nil {
		return false, refusal
	}
	b, err := parseUpTo(text, maxResumeBody)
	if err != nil {
		return false, invalid(codeOf(err), err.Error(), "")
	}
	v := b.get("stream")
	if b.kind != '{' || v.has() && v.kind != 't' && v.kind != 'f' {
		return false, wrong
	}
	return v.kind == 't', nil
}

// Waits for an answer that is not in the log yet: whoever reloads a page may be faster than the log.
const (
	firstLook = 25 * time.Millisecond
	lastLook  = 400 * time.Millisecond
)

// await is find, with some patience.
func (s *Service) await(ctx context.Context, base, id string) (*found, error) {
	t, err := s.find(ctx, base, id)
	for wait := firstLook; t == nil && err == nil && wait <= lastLook && pause(ctx, wait); wait *= 2 {
		t, err = s.find(ctx, base, id)
	}
	return t, err
}

// A found answer is a tape, and how it is filled.
type found struct {
	tape *tape
	id   string // of the channel to copy; "" for a flight of this replica
}

// find looks for an answer of ours under its id, or under the upstream's.
func (s *Service) find(ctx context.Context, base, id string) (*found, error) {
	if len(id) > maxModel || !isTag(id) {
		return nil, nil
	}
	t, err := s.findOwn(ctx, base, id)
	if t != nil || err != nil {
		return t, err
	}
	own, err := s.ownID(ctx, base, id)
	if own == "" || err != nil {
		return nil, err
	}
	return s.findOwn(ctx, base, own)
}

// findOwn looks under the id that we gave.
func (s *Service) findOwn(ctx context.Context, base, id string) (*found, error) {
	s.mu.Lock()
	f := s.byID[id]
	s.mu.Unlock()
	if f != nil && f.shares && f.req.base == base {
		return &found{tape: f.tape}, nil
	}
	messages, err := s.cfg.Log.Read(ctx, channelOf(id), 4) // claims of successors may come before the head
	if err != nil {
		return nil, fmt.Errorf("look for an answer: %w", err)
	}
	for _, m := range messages {
		var p publication
		if json.Unmarshal(m, &p) == nil && p.Head != nil && p.Head.Scope == hashed(base, id) {
			return &found{tape: newTape(id), id: id}, nil
		}
	}
	return nil, nil
}

// maxAliases is how often one answer may be named by its upstream: once by each of its leaders.
const maxAliases = 16

// ownID returns our id of the answer that an upstream gave one; "" if there is none, or more than one: some upstreams
// count from 0 whenever they start, and others draw from a few.
func (s *Service) ownID(ctx context.Context, base, id string) (string, error) {
	messages, err := s.cfg.Log.Read(ctx, aliasChannel(base, id), maxAliases)
	if err != nil {
		return "", fmt.Errorf("look where an answer's other id leads: %w", err)
	}
	own := ""
	for _, m := range messages {
		var to struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(m, &to); err != nil {
			return "", fmt.Errorf("read where an answer's other id leads: %w", err)
		}
		if own != "" && own != to.ID {
			return "", nil
		}
		own = to.ID
	}
	if len(messages) == maxAliases {
		return "", nil // what follows is not known
	}
	return own, nil
}

// start fills the tape until ctx ends. The returned channel is closed when nothing is left running.
func (t *found) start(ctx context.Context, s *Service) <-chan struct{} {
	ended := make(chan struct{})
	if t.id == "" {
		close(ended)
		return ended
	}
	go func() {
		defer close(ended)
		follower, err := s.cfg.Log.Follow(channelOf(t.id))
		if err == nil {
			defer follower.Close()
			c := &copier{tape: t.tape}
			for tries := 0; ; tries++ {
				err = s.copy(ctx, t.id, follower, c)
				// Another replica, on which somebody asked for the same, may replace a dead leader.
				if !errors.Is(err, errDied) || tries == 2 {
					break
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			t.tape.finish(flightEnd{Failure: &failure{Status: http.StatusBadGateway, Code: "stream_interrupted", Message: errGone.Error()}})
		}
	}()
	return ended
}
