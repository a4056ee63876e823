package fakellm

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// exchange is one request and its answer. One goroutine uses it.
type exchange struct {
	server    *Server
	ctx       context.Context // ends when the caller leaves or the server is closed
	w         http.ResponseWriter
	request   request
	behaviour Behaviour
	nonce     string
	mark      string
}

// statusFault answers with the fault if it is one of the whole answer.
func (x *exchange) statusFault() bool {
	f := x.behaviour.Fault
	if status := f.status(); status != 0 {
		if x.behaviour.RetryAfter != "" {
			x.w.Header().Set("Retry-After", x.behaviour.RetryAfter)
		}
		writeError(x.w, status, "server_error", "", "The fake model was told to fail ("+x.nonce+").")
		return true
	}
	switch f {
	case Hang:
		<-x.ctx.Done()
		panic(http.ErrAbortHandler)
	case ErrorIn200:
		writeError(x.w, http.StatusOK, "server_error", "", "The fake model was told to fail ("+x.nonce+").")
	case HTML:
		x.w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprint(x.w, "<html><body>It works!</body></html>") // the caller may have left
	case Redirect:
		x.w.Header().Set("Location", x.server.cfg.RedirectTo)
		x.w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		return false
	}
	return true
}

// reply is what the model says: either text or the call of a function.
type reply struct {
	tokens []string // of the text, or of the arguments
	tool   string   // the function, "" for text
	finish string
	prompt int // tokens
	choice int // index
}

func (r *reply) text() string { return strings.Join(r.tokens, "") }

// reply thinks up one choice.
func (x *exchange) reply(choice int) *reply {
	r := &reply{finish: "stop", prompt: x.request.promptTokens(), choice: choice}
	switch {
	case x.behaviour.Length:
		r.finish = "length"
	case x.behaviour.Filtered:
		r.finish = "content_filter"
	}
	nonce := x.nonce
	if x.behaviour.Fixed {
		nonce = "fixed"
	}
	if name, arguments, ok := x.request.calls(nonce); ok {
		if x.behaviour.Fault == BadTool {
			arguments = arguments[:len(arguments)-1]
		}
		r.tool, r.finish = name, "tool_calls"
		r.tokens = split(arguments, 8)
		return r
	}
	if x.request.wantsJSON() {
		r.tokens = split(fmt.Sprintf(`{"mark":%q,"nonce":"%s.%d","ok":true,"big":12345678901234567890}`, x.mark, nonce, choice), 6)
		return r
	}
	n := x.behaviour.tokens()
	r.tokens = make([]string, 0, n)
	r.tokens = append(r.tokens, fmt.Sprintf("%s nonce:%s.%d", x.mark, nonce, choice))
	for i := 1; i < n; i++ {
		r.tokens = append(r.tokens, " "+strconv.Itoa(i))
	}
	return r
}

// replies thinks up all choices.
func (x *exchange) replies() []*reply {
	out := make([]*reply, max(x.request.N, 1))
	for i := range out {
		out[i] = x.reply(i)
	}
	return out
}

// split cuts a text into tokens of a length.
func split(s string, n int) (out []string) {
	for len(s) > n {
		out = append(out, s[:n])
		s = s[n:]
	}
	return append(out, s)
}

// pause waits, or ends the handler if the caller leaves.
func (x *exchange) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// hold waits until the behaviour's Hold is closed.
func (x *exchange) hold() {
	if x.behaviour.Hold == nil {
		return
	}
	select {
	case <-x.behaviour.Hold:
	case <-x.ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// whole sends an answer that is not streamed.
func (x *exchange) whole(tokens int, v object) {
	x.pause(x.behaviour.FirstToken + time.Duration(max(tokens-1, 0))*x.behaviour.Interval)
	x.hold()
	switch x.behaviour.Fault {
	case Cut, HalfEvent, Stall:
		// The length promises more than what comes.
		x.w.Header().Set("Content-Type", "application/json")
		x.w.Header().Set("Content-Length", "100000")
		_, _ = fmt.Fprint(x.w, `{"id":"cut","object":"chat.comp`) // the caller may have left
		if x.behaviour.Fault == Stall {
			_ = http.NewResponseController(x.w).Flush()
			<-x.ctx.Done()
		}
		panic(http.ErrAbortHandler)
	case BadJSON, InvalidUTF8:
		x.w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(x.w, "{\"id\":\"bad\",\"x\":\"\xff\xfe") // the caller may have left
	default:
		x.w.Header().Set("X-Request-Id", "req_"+x.nonce)
		x.w.Header().Set("Openai-Processing-Ms", "1")
		writeJSON(x.w, http.StatusOK, v)
	}
}
