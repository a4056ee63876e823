// Package problem is what the resources of /v1 answer when something is wrong: problem details, RFC 9457, with a
// code for programs that does not change between releases. It imports nothing of ours, so that whatever stands in
// front of a resource can answer in the resource's own form.
package problem

import (
	"encoding/json"
	"net/http"
	"strings"
)

// ContentType is that of every problem.
const ContentType = "application/problem+json"

// Problem is what is wrong with a request, or with us. It is an error, so that a handler can return it.
type Problem struct {
	Type   string      `json:"type"` // about:blank: the code says more than a page would
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Code   string      `json:"code"`
	Detail string      `json:"detail"`          // for people; without any text of a prompt
	Field  string      `json:"field,omitempty"` // the field, parameter or header that is wrong
	Header http.Header `json:"-"`               // added to the response
}

// New makes a problem.
func New(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// Bad is a request that will never go well, for one of its fields.
func Bad(code, field, detail string) *Problem {
	p := New(http.StatusBadRequest, code, detail)
	p.Field = field
	return p
}

// Later is what may go well when it is sent again.
func Later(code, detail string) *Problem {
	p := New(http.StatusServiceUnavailable, code, detail)
	p.Header = http.Header{"Retry-After": {"1"}}
	return p
}

// MemoryShort is for what is not begun, or not taken, while memory is short.
var MemoryShort = Later("memory_short", "memory is short, try again soon")

// Error is the code and the detail.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Write answers with the problem. A client that left needs no answer.
func (p *Problem) Write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range p.Header {
		h[name] = values
	}
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Del("Etag")
	h.Del("Location")
	b, err := json.Marshal(p)
	if err != nil { // texts always can be marshalled
		b = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"code":"internal_error","detail":""}`)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n'))
}

// of are the paths whose requests get problems, also from what stands in front of the resource.
var of = []string{"/v1/prompts", "/v1/datasets", "/v1/evaluations", "/v1/runs", "/v1/usage"}

// Wanted says whether a request with this path gets problems: it is one of ours or lies below.
func Wanted(path string) bool {
	for _, p := range of {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}
