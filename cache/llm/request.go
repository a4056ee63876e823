package llm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"forgewire/infra/memory"
)

// Bounds of a request's body.
const (
	maxBodyBytes = 32 << 20 // prompts hold images
	bodyTimeout  = 30 * time.Second
	maxModel     = 200
)

// A request is what a caller asks, understood as far as it must be.
type request struct {
	caller   Caller
	endpoint endpoint
	body     node
	model    string
	stream   bool
	usage    bool  // the caller wants a stream's usage
	choices  int64 // that are asked for
	exact    bool  // temperature 0 or a seed: the same answer again, as far as the model can
	routes   []route
	base     string // whose entries: the tenant's, or those that are shared
	scope    string // base, and what else decides which answers may be given
	key      key
	controls controls
	header   http.Header // what goes on to the upstream
	standIn  bool        // the cache has an answer that is too old, but better than none
	ownKey   string      // the caller's key for an upstream with PassThrough
	started  time.Time
}

// passedOn are the headers that reach an upstream, and so may change its answer.
var passedOn = []string{"Openai-Beta", "Openai-Organization", "Openai-Project"}

// read understands a request, or says what is wrong with it.
func (s *Service) read(w http.ResponseWriter, r *http.Request, e endpoint) (*request, *Refusal) {
	req := &request{endpoint: e, choices: 1, started: time.Now()}
	var known bool
	if req.caller, known = CallerFrom(r.Context()); !known {
		return nil, &Refusal{Status: http.StatusUnauthorized, Type: typeAuth, Code: "invalid_api_key", Message: "an API key is required: Authorization: Bearer …"}
	}
	var refusal *Refusal
	if req.controls, refusal = readControls(r.Header); refusal != nil {
		return nil, refusal
	}
	text, refusal := readBody(w, r, maxBodyBytes)
	if refusal != nil {
		return nil, refusal
	}
	body, err := parseUpTo(text, maxValues)
	if err != nil {
		return nil, invalid(codeOf(err), err.Error(), "")
	}
	req.body = body
	if refusal = req.understand(); refusal != nil {
		return nil, refusal
	}
	if !req.caller.allows(req.model) {
		return nil, modelNotAllowed()
	}
	if req.routes = s.client.upstreams.routes(req.model); req.routes == nil {
		return nil, unknownModel()
	}
	req.address(r)
	return req, nil
}

func modelNotAllowed() *Refusal {
	return &Refusal{Status: http.StatusForbidden, Type: typeForbidden, Code: "model_not_allowed", Message: "this API key may not use the model", Param: "model"}
}

func unknownModel() *Refusal {
	return &Refusal{Status: http.StatusNotFound, Type: typeInvalid, Code: "model_not_found", Message: "no upstream serves this model", Param: "model"}
}

// readBody reads all of a request's body, which has at most so many bytes, in its time.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *Refusal) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, &Refusal{Status: http.StatusUnsupportedMediaType, Type: typeInvalid, Code: "unsupported_encoding", Message: "the request's body must not be compressed"}
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // where it cannot be set, the server's own holds
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &Refusal{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: "body_too_large", Message: fmt.Sprintf("the request's body is larger than %d bytes", most)}
	case errors.Is(err, memory.ErrShort):
		return nil, &Refusal{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "memory_short", Message: "memory is short, try again soon",
			Header: http.Header{"Retry-After": {"1"}}}
	case err != nil:
		return nil, invalid("body_unreadable", "the request's body could not be read", "")
	}
	_ = rc.SetReadDeadline(time.Time{}) // an answer takes longer than a request may
	return text, nil
}

// understand reads what we must know; the rest is the upstream's to judge.
func (req *request) understand() *Refusal {
	b := req.body
	if b.kind != '{' {
		return invalid("invalid_json", "the request's body must be a JSON object", "")
	}
	model := b.get("model")
	if req.model = model.text(); req.model == "" || len(req.model) > maxModel {
		return invalid("invalid_model", fmt.Sprintf("model must be a string of 1 to %d bytes", maxModel), "model")
	}
	switch stream := b.get("stream"); {
	case stream.kind == 't':
		req.stream = true
	case stream.kind != 0 && stream.kind != 'f' && stream.kind != 'n':
		return invalid("invalid_type", "stream must be true or false", "stream")
	}
	options := b.get("stream_options")
	if options.has() && options.kind != '{' {
		return invalid("invalid_type", "stream_options must be an object", "stream_options")
	}
	if req.stream && req.endpoint == embeddings {
		return invalid("invalid_type", "embeddings are not streamed", "stream")
	}
	req.usage = options.get("include_usage").kind == 't' || !req.endpoint.hasUsageOption()
	if n := b.get("n").integer(); n > 1 {
		req.choices = n
	}
	zero := b.get("temperature")
	req.exact = req.endpoint == embeddings || b.get("seed").has() || zero.kind == '0' && string(appendNumber(nil, zero.raw)) == "0"
	return nil
}

// address finds out whose entries may be used, and under which key.
func (req *request) address(r *http.Request) {
	req.base = "tenant:" + req.caller.Tenant
	if req.caller.Shared {
		req.base = "shared"
	}
	req.scope = req.base
	req.header = http.Header{"Content-Type": {"application/json"}, "User-Agent": {"forgewire"}}
	passes := false
	for _, rt := range req.routes {
		passes = passes || rt.upstream.Key == PassThrough
	}
	if passes {
		req.ownKey = ownKey(r)
		req.scope += "\x00" + hashed(req.ownKey)
	}
	for _, name := range passedOn {
		// An organization belongs to the key that it comes with.
		if v := r.Header.Get(name); v != "" && (passes || name == "Openai-Beta") {
			req.header.Set(name, v)
			req.scope += "\x00" + name + "\x00" + v
		}
	}
	var to strings.Builder
	for _, rt := range req.routes {
		fmt.Fprintf(&to, "%s\x00%s\x00%s\x00", rt.upstream.Name, rt.upstream.URL, rt.model)
	}
	req.key = keyOf(req.scope, to.String(), req.endpoint, req.body)
}

// ownKey is the key for the upstream that a caller brings beside Forgewire's, which is then in Forgewire-Key.
func ownKey(r *http.Request) string {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if r.Header.Get("Forgewire-Key") == "" || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}

// hashed names what must not be told.
func hashed(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// question is what the upstream is asked: the request as it came, but for the model's name there, and the usage, which is
// always wanted and taken out again for whoever did not ask for it.
func (req *request) question() question {
	body := req.body
	if req.stream && req.endpoint.hasUsageOption() && !req.usage {
		options := []byte(`{"include_usage":true}`)
		if o := body.get("stream_options"); o.kind == '{' {
			options = o.with("include_usage", []byte("true"))
		}
		if changed, err := parseJSON(body.with("stream_options", options)); err == nil {
			body = changed
		}
	}
	h := req.header.Clone()
	if h.Set("Accept", "application/json"); req.stream {
		h.Set("Accept", "text/event-stream")
	}
	return question{method: http.MethodPost, path: string(req.endpoint), routes: req.routes, header: h, ownKey: req.ownKey,
		body: func(model string) []byte {
			if model == req.model {
				return body.raw
			}
			return body.with("model", quote(model))
		}}
}
