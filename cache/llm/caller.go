package llm

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// Caller is who asks, as whoever checked the request's key found out.
type Caller struct {
	Tenant string   // whose entries are used
	KeyID  string   // which of the tenant's keys; "" for the server's own
	Models []string // the models that the key may ask for, * standing for any text; empty allows all
	// LogBodies has what is asked and answered kept in the run log, unless the request says otherwise.
	LogBodies bool
	Shared    bool // the tenant shares its entries with all others that share theirs
}

// allows says whether the caller may ask for a model.
func (c Caller) allows(model string) bool {
	return len(c.Models) == 0 || slices.ContainsFunc(c.Models, func(pattern string) bool { return matches(pattern, model) })
}

// matches says whether a model is one of those that a pattern means: * stands for any text, also for one with a /,
// which names of models have; nothing else is special.
func matches(pattern, model string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == model
	}
	model, ok := strings.CutPrefix(model, first)
	parts := strings.Split(rest, "*")
	last := len(parts) - 1
	for _, part := range parts[:last] { // the first place is as good as any: what follows begins with a *
		if !ok {
			return false
		}
		_, model, ok = strings.Cut(model, part)
	}
	return ok && strings.HasSuffix(model, parts[last])
}

type callerKey struct{}

// WithCaller returns a context that carries the caller. A request without one is refused.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns the caller that WithCaller put into ctx.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Refusal is an answer that is no model's: what is wrong with a request, in the form of OpenAI's errors.
type Refusal struct {
	Status  int         // HTTP
	Type    string      // OpenAI's: invalid_request_error, authentication_error, rate_limit_error, …
	Code    string      // for programs: budget_exceeded, …
	Message string      // for people; without any text of a prompt
	Param   string      // the field that is wrong, if one is
	Header  http.Header // added to the response: Retry-After, x-ratelimit-reset-requests, …
}

func (r *Refusal) Error() string { return r.Message }
