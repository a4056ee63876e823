package fakellm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// stream writes server-sent events at the pace of a behaviour, and lets happen what is to go wrong.
type stream struct {
	x     *exchange
	flush func() error
	begun time.Time // of the first token
	sent  int       // tokens

	// oops makes the event that tells of an error, in the endpoint's form.
	oops func() (name string, v any)
}

// newStream waits for the first token and sends the headers.
func (x *exchange) newStream(oops func() (string, any)) *stream {
	x.pause(x.behaviour.FirstToken)
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Request-Id", "req_"+x.nonce)
	x.w.WriteHeader(http.StatusOK)
	return &stream{x: x, flush: http.NewResponseController(x.w).Flush, begun: time.Now(), oops: oops}
}

// event sends one event. Its name is left out where the endpoint has none.
func (s *stream) event(name string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("encode an event: %w", err)) // all are made here, of what JSON can say
	}
	s.raw(name, b)
}

func (s *stream) raw(name string, data []byte) {
	var head string
	if name != "" {
		head = "event: " + name + "\n"
	}
	if s.x.behaviour.Fault != Odd {
		s.write(head + "data: " + string(data) + "\n\n")
		return
	}
	odd := ": a comment\r\n" + strings.ReplaceAll(strings.ReplaceAll(head, "\n", "\r\n"), ": ", ":") + "data:" + string(data) + "\r\n\r\n"
	for _, piece := range split(odd, 7) {
		s.write(piece)
	}
}

// write sends text at once, and ends the handler if nobody takes it.
func (s *stream) write(text string) {
	if _, err := fmt.Fprint(s.x.w, text); err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := s.flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// tokens sends texts as tokens by means of emit, and reports whether the stream goes on to its end.
func (s *stream) tokens(texts []string, emit func(text string)) bool {
	b := s.x.behaviour
	for _, text := range texts {
		// Tokens have their times, so a late one does not delay the next.
		s.x.pause(time.Until(s.begun.Add(time.Duration(s.sent) * b.Interval)))
		if s.sent == b.After {
			s.x.hold()
			if !s.fault(emit) {
				return false
			}
		}
		if b.Stamped {
			text += stamp(time.Now())
		}
		emit(text)
		s.sent++
	}
	return true
}

// fault lets the behaviour's fault happen, and reports whether the stream goes on.
func (s *stream) fault(emit func(text string)) bool {
	switch s.x.behaviour.Fault {
	case Cut:
		panic(http.ErrAbortHandler)
	case HalfEvent:
		s.write(`data: {"id":"half","object":"chat.completion.ch`)
		return false
	case InvalidUTF8:
		s.write("data: {\"id\":\"bad\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n")
	case BadJSON:
		s.write("data: {\"id\":\"bad\",,}\n\n")
	case ErrorEvent:
		s.event(s.oops())
		return false
	case BigChunk:
		emit(strings.Repeat("x", BigSize))
	case Stall:
		<-s.x.ctx.Done()
		panic(http.ErrAbortHandler)
	}
	return true
}

// done sends the terminator that chat and completions have.
func (s *stream) done() {
	if s.x.behaviour.Fault != NoDone {
		s.write("data: [DONE]\n\n")
	}
}

// stamp is what a token that was sent at a time ends with, if its behaviour says so.
func stamp(at time.Time) string { return "@" + strconv.FormatInt(at.UnixNano(), 10) }

// Stamp reads when a token of a Stamped behaviour was sent.
func Stamp(token string) (time.Time, bool) {
	_, digits, ok := strings.Cut(token, "@")
	if !ok {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(digits, 10, 64)
	return time.Unix(0, ns), err == nil
}
