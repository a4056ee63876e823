package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"forgewire/infra/fakellm"
)

// What a model gets wrong reaches the client as an error, is never stored, and is told to nobody who asks later.
func TestLLMUpstreamFaults(t *testing.T) {
	t.Parallel()
	faults := map[string]fakellm.Fault{
		"cut": fakellm.Cut, "half event": fakellm.HalfEvent, "invalid UTF-8": fakellm.InvalidUTF8, "bad JSON": fakellm.BadJSON,
		"error event": fakellm.ErrorEvent, "no done": fakellm.NoDone, "no finish": fakellm.NoFinish, "error in 200": fakellm.ErrorIn200,
		"a page": fakellm.HTML, "400": fakellm.BadRequest,
	}
	behaviours := map[string]fakellm.Behaviour{}
	for name, f := range faults {
		behaviours[name] = fakellm.Behaviour{Tokens: 10, Fault: f, After: 4, Times: 1}
		behaviours[name+", whole"] = behaviours[name]
	}
	c := newLLM(t, nil, behaviours)
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			question := "fault " + name
			first, _ := c.ask(0, "/chat/completions", asking(name, question, object{"stream": true})) // an error is one way to tell
			t.Logf("streamed: %d, %q", first.status, first.body[max(0, len(first.body)-160):])
			if first.status == http.StatusOK && whole(first.body) && f != fakellm.NoDone {
				t.Errorf("the client cannot tell that the answer is not whole: %q", first.body)
			}
			again := c.afterwards(asking(name, question, nil))
			checkAnswer(t, contentOf(t, again.body), question, 10)
			if got := cacheStatus(again.header); got == "hit" && f != fakellm.NoDone {
				t.Errorf("a broken answer was stored")
			}
			notStreamed, err := c.ask(0, "/chat/completions", asking(name+", whole", question, nil))
			t.Logf("whole: %v, %d, %q", err, notStreamed.status, notStreamed.body[:min(len(notStreamed.body), 160)])
			last := c.afterwards(asking(name+", whole", question, nil))
			checkAnswer(t, contentOf(t, last.body), question, 10)
		})
	}
}

// afterwards asks again what has failed. Who asks in the moment in which it fails is told the same.
func (c *llmCluster) afterwards(body object) (a answer) {
	c.t.Helper()
	until(c.t, 2*time.Second, "an answer after a failure", func() string {
		var err error
		if a, err = c.ask(0, "/chat/completions", body); err != nil || a.status != http.StatusOK || cacheStatus(a.header) == "collapsed" {
			return fmt.Sprintf("%v, %d %s", err, a.status, a.body)
		}
		return ""
	})
	return a
}

// whole tells whether a stream claims to be a whole answer.
func whole(body []byte) bool {
	text := string(body)
	for _, e := range parsed(body) {
		if e.data != "[DONE]" && !json.Valid([]byte(e.data)) || !utf8.ValidString(e.data) || strings.ContainsRune(e.data, utf8.RuneError) {
			return false
		}
	}
	return strings.Contains(text, `"finish_reason":"stop"`) && strings.HasSuffix(strings.TrimSpace(text), "data: [DONE]") && !strings.Contains(text, `"error"`)
}

// What is unusual but right arrives, and is stored.
func TestLLMUnusualStreams(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{
		"odd": {Tokens: 10, Fault: fakellm.Odd},
		"big": {Tokens: 10, Fault: fakellm.BigChunk, After: 4},
	})
	for range 2 {
		checkAnswer(t, textOf(t, c.open(0, "/chat/completions", asking("odd", "odd", object{"stream": true})).all()), "odd", 10)
	}
	if n := c.model.Count("odd"); n != 1 {
		t.Errorf("%d calls", n)
	}
	for range 2 {
		text := textOf(t, c.open(1, "/chat/completions", asking("big", "big", object{"stream": true})).all())
		if n := strings.Count(text, "x"); n != fakellm.BigSize {
			t.Errorf("%d of %d bytes came", n, fakellm.BigSize)
		}
	}
}

// An answer that was cut short by its length, or filtered, is the client's, but nobody else's.
func TestLLMIncompleteIsNotStored(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"length": {Length: true}, "filtered": {Filtered: true}, "tool": {Fault: fakellm.BadTool}})
	for _, model := range []string{"length", "filtered", "tool"} {
		more := object{}
		if model == "tool" {
			more["tools"] = weather
		}
		for calls := 1; calls <= 3; calls++ {
			// Who asks in the moment in which it ends may still join.
			until(t, 2*time.Second, "the model being asked again", func() string {
				a := c.mustAsk(0, "/chat/completions", asking(model, "incomplete", with(more, object{"stream": calls%2 == 0})))
				if how := cacheStatus(a.header); how == "hit" || c.model.Count(model) < calls {
					return how
				}
				return ""
			})
		}
	}
}

// A busy or failing model is asked again, as it says; one that goes on failing gives its own error.
func TestLLMRetries(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{
		"busy":   {Fault: fakellm.TooMany, Times: 1, RetryAfter: "1"},
		"flaky":  {Fault: fakellm.ServerError, Times: 1},
		"broken": {Fault: fakellm.Overloaded},
		"limits": {Fault: fakellm.TooMany, RetryAfter: "30"},
	})
	a := c.mustAsk(0, "/chat/completions", asking("busy", "busy", nil))
	checkAnswer(t, contentOf(t, a.body), "busy", 10)
	if a.took < time.Second {
		t.Errorf("asked again after %v, before the second that the model wanted", a.took)
	}
	checkAnswer(t, contentOf(t, c.mustAsk(0, "/chat/completions", asking("flaky", "flaky", nil)).body), "flaky", 10)
	broken, err := c.ask(0, "/chat/completions", asking("broken", "broken", nil))
	if err != nil || broken.status < 500 || !strings.Contains(string(broken.body), `"error"`) {
		t.Errorf("broken: %v, %d %s", err, broken.status, broken.body)
	}
	limits, err := c.ask(1, "/chat/completions", asking("limits", "limits", nil))
	if err != nil || limits.status != http.StatusTooManyRequests || limits.header.Get("Retry-After") == "" {
		t.Errorf("limits: %v, %d, Retry-After %q", err, limits.status, limits.header.Get("Retry-After"))
	}
	if limits.took > 20*time.Second {
		t.Errorf("it waited %v for a model that wants 30 s", limits.took)
	}
}

// The credentials of the model go nowhere else, whatever the model answers.
func TestLLMRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := newModel(t, map[string]fakellm.Behaviour{"m": {}})
	m, err := fakellm.Start(fakellm.Config{Key: modelKey, Behaviours: map[string]fakellm.Behaviour{"m": {Fault: fakellm.Redirect}},
		RedirectTo: elsewhere.URL() + "/chat/completions"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c := &llmCluster{model: m, cluster: newCluster(t, 1, options{env: []string{"FORGEWIRE_UPSTREAM_URL=" + m.URL(), "FORGEWIRE_UPSTREAM_KEY=" + modelKey}})}
	a, err := c.ask(0, "/chat/completions", asking("m", "redirect", nil))
	if err != nil || a.status < 500 {
		t.Errorf("%v, %d %s", err, a.status, a.body)
	}
	if n := elsewhere.Count(""); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

// A model that hangs holds its caller, not the others, and is let go when the caller leaves.
func TestLLMHangingModel(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"hang": {Fault: fakellm.Hang}, "stall": {Fault: fakellm.Stall, After: 3}, "m": {}})
	for _, model := range []string{"hang", "stall"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			res, err := c.send(ctx, 0, "/chat/completions", asking(model, "hang", object{"stream": true}))
			if err == nil {
				var b [1 << 10]byte
				for err == nil {
					_, err = res.Body.Read(b[:])
				}
				res.Body.Close()
			}
		}()
		until(t, 10*time.Second, "the model being asked", func() string {
			if c.model.Active() == 0 {
				return "it was not"
			}
			return ""
		})
		for i := range 5 {
			if a := c.mustAsk(0, "/chat/completions", asking("m", fmt.Sprint(model, i), nil)); a.took > 20*time.Second { // the model hangs for minutes
				t.Errorf("another model's answer took %v", a.took)
			}
		}
		cancel()
		<-done
	}
}

// Prompts, answers and keys are in no log.
func TestLLMLogsAreSilent(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {}, "cut": {Fault: fakellm.Cut, After: 3}, "broken": {Fault: fakellm.ServerError}},
		"FORGEWIRE_LOG_LEVEL=debug")
	const secret = "the secret of the pharaoh"
	for _, model := range []string{"m", "cut", "broken", "nobody"} {
		for _, stream := range []bool{false, true} {
			_, _ = c.ask(0, "/chat/completions", asking(model, secret, object{"stream": stream, "user": secret})) // also what fails
		}
	}
	_, _ = c.ask(0, "/chat/completions", `{"model":"m","messages":[{"role":"user","content":"`+secret+`"}`) // cut off
	_, _ = c.ask(0, "/chat/completions", `{"model":"m","`+secret+`":1,"`+secret+`":2}`)                     // twice
	for _, r := range c.replicas {
		for _, word := range []string{secret, modelKey, apiKey, fakellm.Mark(secret)} {
			if strings.Contains(r.log.String(), word) {
				t.Errorf("%q is in a log", word)
			}
		}
	}
}

// What no model should be asked is refused with an error in OpenAI's form, and asked of no model.
func TestLLMBadRequests(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {}})
	for name, body := range map[string]string{
		"no JSON":       `{"model":"m"`,
		"nothing":       ``,
		"an array":      `[1]`,
		"two values":    `{"model":"m","messages":[]} {}`,
		"duplicate key": `{"model":"m","messages":[],"temperature":0,"temperature":1}`,
		"too deep":      `{"model":"m","messages":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`,
		"too large":     `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("x", 70<<20) + `"}]}`,
		"no model":      `{"messages":[]}`,
		"model is 7":    `{"model":7,"messages":[]}`,
		"stream is 7":   `{"model":"m","messages":[],"stream":7}`,
		"not UTF-8":     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}",
	} {
		a, err := c.ask(0, "/chat/completions", body)
		if err != nil && name == "too large" {
			continue // the connection may be closed before all of it was read
		}
		if err != nil || a.status < 400 || a.status >= 500 || !strings.Contains(string(a.body), `"message"`) {
			t.Errorf("%s: %v, %d %.300s", name, err, a.status, a.body)
		}
	}
	if n := c.model.Count(""); n != 0 {
		t.Errorf("the model was asked %d times", n)
	}
	a, err := c.ask(0, "/chat/completions", asking("m", "after", nil))
	if err != nil || a.status != http.StatusOK {
		t.Errorf("afterwards: %v, %d", err, a.status)
	}
}
