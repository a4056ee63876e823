package resources

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"forgewire/cache/llm"
)

const (
	modelTimeout   = 40 * time.Second
	maxModelAnswer = 4 << 20 // bytes
)

// errLater says that a model could not answer now, and may soon. It may also be this one question that it cannot answer,
// unless it was refused before it was looked at.
type errLater struct {
	code    string
	refused bool
}

// unasked are codes of our own that say nothing of the question: a replica that stops, or an upstream that is left alone.
var unasked = map[string]bool{"overloaded": true, "shutting_down": true, "upstream_unavailable": true, "memory_short": true, "service_unavailable": true}

func (e errLater) Error() string { return e.code }

// model asks our own endpoint, in the process, as the key that made the evaluation: its limits, its budget, its
// tenant's cache.
type model struct {
	handler http.Handler
	caller  llm.Caller
}

// said is what a model answered.
type said struct {
	text  string
	cache string
}

// ask sends one message. An error is a code: it may be stored.
func (m *model) ask(ctx context.Context, name, message string, parameters json.RawMessage) (said, error) {
	request := map[string]json.RawMessage{}
	if err := json.Unmarshal(parameters, &request); err != nil {
		return said{}, errors.New("invalid_parameters")
	}
	var err error
	if request["model"], err = json.Marshal(name); err != nil {
		return said{}, errors.New("invalid_model")
	}
	if request["messages"], err = json.Marshal([]map[string]string{{"role": "user", "content": message}}); err != nil {
		return said{}, errors.New("invalid_message")
	}
	body, err := json.Marshal(request)
	if err != nil {
		return said{}, errors.New("invalid_parameters")
	}
	ctx, cancel := context.WithTimeout(llm.WithCaller(ctx, m.caller), modelTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return said{}, fmt.Errorf("make a request to the model: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(llm.HeaderClass, llm.ClassEvaluation)
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	m.handler.ServeHTTP(w, r)
	return w.said(ctx)
}

// recorder is the response of a request that never left the process.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	large  bool
}

// Header is http.ResponseWriter's.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader is http.ResponseWriter's.
func (w *recorder) WriteHeader(status int) { w.status = status }

// Write is http.ResponseWriter's.
func (w *recorder) Write(b []byte) (int, error) {
	if w.large = w.large || w.body.Len()+len(b) > maxModelAnswer; w.large {
		return 0, errors.New("the model's answer is too large")
	}
	return w.body.Write(b)
}

// Flush is http.Flusher's.
func (w *recorder) Flush() {}

func (w *recorder) said(ctx context.Context) (said, error) {
	if w.large {
		return said{}, errors.New("answer_too_large")
	}
	if ctx.Err() != nil {
		return said{}, errLater{code: "timeout"}
	}
	var answer struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	err := json.Unmarshal(w.body.Bytes(), &answer)
	switch {
	case w.status == http.StatusTooManyRequests, w.status >= http.StatusInternalServerError:
		code := orElse(plainCode(answer.Error.Code), fmt.Sprintf("status_%d", w.status))
		return said{}, errLater{code, w.status == http.StatusTooManyRequests || unasked[code]}
	case w.status != http.StatusOK:
		return said{}, errors.New(orElse(plainCode(answer.Error.Code), fmt.Sprintf("status_%d", w.status)))
	case err != nil || len(answer.Choices) == 0:
		return said{}, errors.New("answer_not_understood")
	}
	return said{text: answer.Choices[0].Message.Content, cache: outcome(w.header.Get("Cache-Status"))}, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// plainCode lets pass what looks like a code; an upstream may send anything.
func plainCode(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' }) {
		return ""
	}
	return s
}

func outcome(status string) string {
	for _, o := range []string{"hit", "collapsed", "bypass"} {
		if strings.Contains(status, o) {
			return o
		}
	}
	return "miss"
}
