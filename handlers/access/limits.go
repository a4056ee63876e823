package access

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"forgewire/cache/llm"
)

// limits are what a response tells of a key's minute, in OpenAI's headers.
type limits struct {
	requests, tokens meter
}

func (a *account) limits() *limits { return &limits{requests: a.requests, tokens: a.tokens} }

func (l *limits) header(h http.Header) {
	for name, m := range map[string]*meter{"Requests": &l.requests, "Tokens": &l.tokens} {
		if m.limit == 0 {
			continue
		}
		h["X-Ratelimit-Limit-"+name] = []string{strconv.FormatInt(m.limit, 10)}
		h["X-Ratelimit-Remaining-"+name] = []string{strconv.FormatInt(m.left(), 10)}
		h["X-Ratelimit-Reset-"+name] = []string{m.until(float64(m.limit)).Round(time.Millisecond).String()}
	}
}

// overLimit refuses a request of a key that has nothing left of its minute.
func overLimit(what string, limit int64, wait time.Duration) *llm.Refusal {
	code := "requests_per_minute_exceeded"
	if what == "tokens" {
		code = "tokens_per_minute_exceeded"
	}
	return &llm.Refusal{Status: http.StatusTooManyRequests, Type: what, Code: code,
		Message: fmt.Sprintf("the API key's limit of %d %s a minute is reached: try again in %s", limit, what, wait.Round(time.Millisecond)),
		Header:  http.Header{"Retry-After": {seconds(wait)}}}
}

// overBudget refuses a request of a key that has spent its month's money. The SDKs are told not to try again.
func overBudget(reset, now time.Time) *llm.Refusal {
	at := reset.Format(time.RFC3339)
	return &llm.Refusal{Status: http.StatusTooManyRequests, Type: "insufficient_quota", Code: "budget_exceeded",
		Message: "the API key's budget of this month is spent: it begins anew at " + at,
		Header: http.Header{"Retry-After": {seconds(reset.Sub(now))}, "X-Should-Retry": {"false"},
			"X-Ratelimit-Reset-Budget": {at}}}
}

// budgetInUse refuses a request while others may spend what is left of the month.
var budgetInUse = &llm.Refusal{Status: http.StatusTooManyRequests, Type: "insufficient_quota", Code: "budget_in_use",
	Message: "what is under way may spend the rest of the API key's budget: try again when it has ended", Header: http.Header{"Retry-After": {"1"}}}

// seconds writes a wait as Retry-After has it: never too short.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
