package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"forgewire/db"
	"forgewire/handlers/problem"
	"forgewire/realtime"
)

// Errors of the HTTP side itself, with the codes that Centrifugo uses.
var (
	unauthorized = &realtime.Error{Code: 101, Message: "unauthorized: send the API key in the X-API-Key header"}
	apiDisabled  = &realtime.Error{Code: 103, Message: "the server API is disabled: FORGEWIRE_API_KEY is none"}
	notFound     = &realtime.Error{Code: 104, Message: "there is nothing at this path"}
	errBusy      = &realtime.Error{Code: 111, Message: "the database is busy, try again soon", Temporary: true}
	wrongMethod  = &realtime.Error{Code: 104, Message: "this path does not take this method"}
)

type errorBody struct {
	Error *realtime.Error `json:"error"`
}

// codes are those of what concerns any resource.
var codes = map[int]string{http.StatusNotFound: "no_such_path", http.StatusMethodNotAllowed: "method_not_allowed", http.StatusInternalServerError: "internal_error"}

// fail answers with an error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, status int, e *realtime.Error) {
	if problem.Wanted(r.Context()) {
		problem.New(status, codes[status], e.Message).Write(w)
		return
	}
	s.write(w, r, status, errorBody{e})
}

// statusOf maps an error to a status. As with Centrifugo, whose server SDKs look into the body only then, a
// command that was understood and refused is 200 with an error. What may go well later, and proxies and
// clients retry, is 503.
func statusOf(e *realtime.Error) int {
	if e.Temporary {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// errorFor turns any error into one that the caller may see.
func (s *server) errorFor(ctx context.Context, err error) *realtime.Error {
	var e *realtime.Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, db.ErrBusy) { // counted by the pool; a line for each would be one more load
		return errBusy
	}
	s.logger.WarnContext(ctx, "a call of the server API failed", "error", err)
	return realtime.ErrInternal
}

// write encodes a response. A client that left is not an error of ours.
func (s *server) write(w http.ResponseWriter, r *http.Request, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		s.logger.ErrorContext(r.Context(), "a response could not be encoded", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"error":{"code":100,"message":"internal server error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	if _, err = w.Write(b); err != nil {
		s.logger.DebugContext(r.Context(), "a response could not be sent", "error", err)
	}
}
