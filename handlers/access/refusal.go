package access

import (
	"encoding/json"
	"net/http"

	"forgewire/cache/llm"
	"forgewire/handlers/problem"
)

// What a caller without a good key gets. Only somebody who has the secret is told that his key was revoked or has
// expired.
var (
	missingKey = &llm.Refusal{Status: http.StatusUnauthorized, Type: "authentication_error", Code: "missing_api_key",
		Message: "no API key was sent: use the header Authorization: Bearer KEY", Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	invalidKey = &llm.Refusal{Status: http.StatusUnauthorized, Type: "authentication_error", Code: "invalid_api_key",
		Message: "the API key is not valid", Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	revokedKey = &llm.Refusal{Status: http.StatusUnauthorized, Type: "authentication_error", Code: "api_key_revoked",
		Message: "the API key was revoked", Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	expiredKey = &llm.Refusal{Status: http.StatusUnauthorized, Type: "authentication_error", Code: "api_key_expired",
		Message: "the API key has expired", Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	unavailable = &llm.Refusal{Status: http.StatusServiceUnavailable, Type: "server_error", Code: "service_unavailable",
		Message: "the database cannot be asked at the moment", Header: http.Header{"Retry-After": {"1"}}}
	notFound = &llm.Refusal{Status: http.StatusNotFound, Type: "invalid_request_error", Code: "not_found",
		Message: "there is no such run"}
)

// badParameter refuses a request for one of its query's parameters.
func badParameter(name, why string) *llm.Refusal {
	return &llm.Refusal{Status: http.StatusBadRequest, Type: "invalid_request_error", Code: "invalid_parameter",
		Message: name + " " + why, Param: name}
}

// ErrorBody is an error in OpenAI's form.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is what an ErrorBody says.
type ErrorDetail struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

// refuse answers in the form of OpenAI's errors, or as a problem in front of a resource.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, why *llm.Refusal) {
	if problem.Wanted(r.Context()) {
		p := problem.New(why.Status, why.Code, why.Message)
		p.Field, p.Header = why.Param, why.Header
		p.Write(w)
		return
	}
	for name, values := range why.Header {
		w.Header()[name] = values
	}
	e := ErrorDetail{Message: why.Message, Type: why.Type, Code: why.Code}
	if why.Param != "" {
		e.Param = &why.Param
	}
	g.write(w, r, why.Status, ErrorBody{e})
}

// write encodes a response. A client that left is not an error of ours.
func (g *Gate) write(w http.ResponseWriter, r *http.Request, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		g.logger.ErrorContext(r.Context(), "a response could not be encoded", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err = w.Write(b); err != nil {
		g.logger.DebugContext(r.Context(), "a response could not be sent", "error", err)
	}
}
