package llm

import (
	"encoding/json"
	"errors"
	"net/http"
)

// What is wrong with a request's body.
var (
	errNotJSON   = errors.New("the request's body is not valid JSON")
	errNotUTF8   = errors.New("the request's body is not valid UTF-8")
	errTooDeep   = errors.New("the request's body nests deeper than 128 levels")
	errTooMany   = errors.New("the request's body has more than 524288 values")
	errDuplicate = errors.New("the request's body has an object in which a name occurs twice")
)

// The types of OpenAI's errors that we give ourselves.
const (
	typeInvalid   = "invalid_request_error"
	typeAuth      = "authentication_error"
	typeForbidden = "permission_error"
	typeNotFound  = "not_found_error"
	typeServer    = "server_error"
	typeUpstream  = "upstream_error"
)

// invalid is a request that will never go well.
func invalid(code, message, param string) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Type: typeInvalid, Code: code, Message: message, Param: param}
}

// codeOf is the code of a body that parseJSON refused.
func codeOf(err error) string {
	switch {
	case errors.Is(err, errNotUTF8):
		return "invalid_utf8"
	case errors.Is(err, errTooDeep):
		return "body_too_deep"
	case errors.Is(err, errTooMany):
		return "body_too_large"
	case errors.Is(err, errDuplicate):
		return "duplicate_name"
	}
	return "invalid_json"
}

// body is a refusal in OpenAI's form.
func (r *Refusal) body() []byte {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	d := detail{Message: r.Message, Type: r.Type}
	if r.Param != "" {
		d.Param = &r.Param
	}
	if r.Code != "" {
		d.Code = &r.Code
	}
	b, err := json.Marshal(struct {
		Error detail `json:"error"`
	}{d})
	if err != nil {
		return []byte(`{"error":{"message":"internal server error","type":"server_error","param":null,"code":null}}`)
	}
	return b
}

// Write answers a request with the refusal.
func (r *Refusal) Write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range r.Header {
		h[name] = values
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(r.Status)
	_, _ = w.Write(append(r.body(), '\n')) // a client that left needs no answer
}
