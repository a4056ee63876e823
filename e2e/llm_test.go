package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"forgewire/infra/devstack"
	"forgewire/infra/fakellm"
)

const modelKey = "fake-model-key-0123456789"

// llmCluster is a cluster in front of a model of its own.
type llmCluster struct {
	*cluster
	model  *fakellm.Server
	valkey *devstack.Server // nil without
}

// newLLM starts one with two replicas. stack is nil for the shared PostgreSQL and no Valkey. {model} in env is the
// model's address.
func newLLM(t testing.TB, stack *devstack.Stack, behaviours map[string]fakellm.Behaviour, env ...string) *llmCluster {
	t.Helper()
	c := &llmCluster{model: newModel(t, behaviours)}
	o := options{env: []string{"FORGEWIRE_UPSTREAM_URL=" + c.model.URL(), "FORGEWIRE_UPSTREAM_KEY=" + modelKey}}
	for _, e := range env {
		o.env = append(o.env, strings.ReplaceAll(e, "{model}", c.model.URL()))
	}
	if stack != nil {
		o.server = stack.Postgres
		if c.valkey = stack.Valkey; c.valkey != nil {
			o.env = append(o.env, "VALKEY_URL="+c.valkey.URL())
		}
	}
	c.cluster = newCluster(t, 2, o)
	return c
}

func newModel(t testing.TB, behaviours map[string]fakellm.Behaviour) *fakellm.Server {
	t.Helper()
	m, err := fakellm.Start(fakellm.Config{Behaviours: behaviours, Key: modelKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// withValkey starts a PostgreSQL and a Valkey for one test.
func withValkey(t *testing.T) *devstack.Stack {
	t.Helper()
	stack, err := devstack.Start(t.Context(), devstack.Config{Settings: serverSettings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stack.Postgres.Resume()
		if stack.Valkey != nil {
			_ = stack.Valkey.Resume()
		}
		if err := stack.Stop(context.Background()); err != nil {
			t.Logf("stop the servers: %v", err)
		}
	})
	if stack.Valkey == nil {
		missing(t, "valkey-server is not installed")
	}
	return stack
}

type object = map[string]any

// asking is a chat of one question; more are further fields.
func asking(model, question string, more object) object {
	o := object{"model": model, "messages": []object{{"role": "user", "content": question}}}
	for k, v := range more {
		o[k] = v
	}
	return o
}

var llmClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// send posts a body and returns the response, whose body is the caller's to close. Headers are name, value, ….
func (c *llmCluster) send(ctx context.Context, replica int, path string, body any, headers ...string) (*http.Response, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if raw, ok := body.(string); ok {
		b = []byte(raw)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.replicas[replica].addr+"/v1"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+apiKey)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return llmClient.Do(req)
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// ask asks a replica for an answer that is not streamed.
func (c *llmCluster) ask(replica int, path string, body any, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	begun := time.Now()
	res, err := c.send(ctx, replica, path, body, headers...)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, b, time.Since(begun)}, err
}

// mustAsk is ask where nothing is wrong.
func (c *llmCluster) mustAsk(replica int, path string, body any, headers ...string) answer {
	c.t.Helper()
	a, err := c.ask(replica, path, body, headers...)
	if err != nil || a.status != http.StatusOK {
		c.t.Fatalf("ask replica %d: %v, status %d, %s", replica, err, a.status, a.body)
	}
	return a
}

// cacheStatus is what a response says about the cache: hit, miss, collapsed, stale or bypass.
func cacheStatus(h http.Header) string {
	s := h.Get("Cache-Status")
	has := func(word string) bool { return regexp.MustCompile(`;\s*` + word + `(\s*;|\s*$)`).MatchString(s) }
	switch {
	case has("collapsed"):
		return "collapsed"
	case has("fwd=stale"), has("detail=stale-if-error"):
		return "stale"
	case has("hit"):
		return "hit"
	case has("fwd=bypass"), has("fwd=request"), has("fwd=method"):
		return "bypass"
	case strings.Contains(s, "fwd="):
		return "miss"
	}
	return "none: " + s
}

// event is one server-sent event.
type event struct{ id, name, data string }

// eventStream is a streamed response.
type eventStream struct {
	t      testing.TB
	res    *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
	events []event // that came
	ended  bool    // with its terminator
	err    error
}

// open asks for a streamed answer and returns once the headers are there.
func (c *llmCluster) open(replica int, path string, body any, headers ...string) *eventStream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	res, err := c.send(ctx, replica, path, body, headers...) //nolint:bodyclose // openStream has it closed
	return openStream(c.t, res, err, cancel)
}

// resume goes on with an answer after an event.
func (c *llmCluster) resume(replica int, id, after string) *eventStream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	u := fmt.Sprintf("http://%s/v1/responses/%s?stream=true&starting_after=%s", c.replicas[replica].addr, id, after)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	res, err := llmClient.Do(req) //nolint:bodyclose // openStream has it closed
	return openStream(c.t, res, err, cancel)
}

func openStream(t testing.TB, res *http.Response, err error, cancel context.CancelFunc) *eventStream {
	t.Helper()
	if err != nil {
		cancel()
		t.Fatalf("open a stream: %v", err)
	}
	t.Cleanup(func() { cancel(); res.Body.Close() })
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		t.Fatalf("open a stream: status %d, %s: %s", res.StatusCode, res.Header.Get("Content-Type"), b)
	}
	s := &eventStream{t: t, res: res, cancel: cancel, lines: bufio.NewScanner(res.Body)}
	s.lines.Buffer(nil, 2*fakellm.BigSize)
	return s
}

// next returns the next event, and false at the end.
func (s *eventStream) next() (event, bool) {
	var e event
	for s.lines.Scan() {
		field, value, _ := strings.Cut(s.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case s.lines.Text() == "":
			if e.data == "" {
				continue
			}
			if e.data == "[DONE]" || e.name == "response.completed" || e.name == "response.incomplete" {
				s.ended = true
			}
			s.events = append(s.events, e)
			return e, true
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			e.data += value
		}
	}
	s.err = s.lines.Err()
	return event{}, false
}

// all reads to the end and demands that the stream ended as it should.
func (s *eventStream) all() []event {
	s.t.Helper()
	for ok := true; ok; {
		_, ok = s.next()
	}
	if s.err != nil || !s.ended {
		s.t.Errorf("the stream did not end as it should: %v, its last: %+v", s.err, s.events[max(0, len(s.events)-2):])
	}
	return s.events
}

// await reads until a token came.
func (s *eventStream) await(token string) {
	s.t.Helper()
	for !strings.Contains(textOf(s.t, s.events), token) {
		if _, ok := s.next(); !ok {
			s.t.Fatalf("the stream ended (%v) before %q: %s", s.err, token, textOf(s.t, s.events))
		}
	}
}

// leave ends the stream from the client's side.
func (s *eventStream) leave() {
	s.cancel()
	s.res.Body.Close()
}

// textOf is the text that events carry, whatever the endpoint. It fails the test on an error among them.
func textOf(t testing.TB, events []event) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		if e.data == "[DONE]" {
			continue
		}
		var v struct {
			Type    string
			Delta   json.RawMessage
			Error   json.RawMessage
			Choices []struct {
				Text  string
				Delta struct{ Content string }
			}
		}
		if err := json.Unmarshal([]byte(e.data), &v); err != nil {
			t.Errorf("an event that is not JSON: %v: %.300s", err, e.data)
			continue
		}
		if e.name == "error" || len(v.Error) > 0 && string(v.Error) != "null" {
			t.Errorf("an error in the stream: %s", e.data)
		}
		if v.Type == "response.output_text.delta" {
			var s string
			_ = json.Unmarshal(v.Delta, &s) // what is no string has no text, and shows as a gap
			b.WriteString(s)
		}
		for _, c := range v.Choices {
			b.WriteString(c.Delta.Content)
			b.WriteString(c.Text)
		}
	}
	return b.String()
}

// contentOf is the text of an answer that is not streamed.
func contentOf(t testing.TB, body []byte) string {
	t.Helper()
	var v struct {
		Choices []struct {
			Text    string
			Message struct{ Content string }
		}
		Output []struct{ Content []struct{ Text string } }
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("an answer that is not JSON: %v: %.300s", err, body)
	}
	switch {
	case len(v.Choices) > 0:
		return v.Choices[0].Message.Content + v.Choices[0].Text
	case len(v.Output) > 0 && len(v.Output[0].Content) > 0:
		return v.Output[0].Content[0].Text
	}
	return ""
}

// checkAnswer demands that a text is the answer to a question, with every token once and in order, and returns
// its nonce.
func checkAnswer(t testing.TB, text, question string, tokens int) (nonce string) {
	t.Helper()
	words := strings.Fields(text)
	if len(words) < 2 || words[0] != fakellm.Mark(question) {
		t.Errorf("the answer to another question, or none, than %q: %.200s", question, text)
		return ""
	}
	for i, w := range words[2:] {
		if w != strconv.Itoa(i+1) {
			t.Errorf("token %d is %q: lost, doubled or out of order: %.300s", i+1, w, text)
			return words[1]
		}
	}
	if len(words) != tokens+1 {
		t.Errorf("%d tokens in place of %d: %.300s", len(words)-1, tokens, text)
	}
	return words[1]
}

// decoded is JSON with exact numbers.
func decoded(t testing.TB, b []byte) object {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		t.Fatalf("not JSON: %v: %.300s", err, b)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("something after the JSON: %.300s", b)
	}
	return o
}
