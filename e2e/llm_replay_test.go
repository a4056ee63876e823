package e2e

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

var weather = []object{{"type": "function", "function": object{"name": "weather", "strict": true,
	"parameters": object{"type": "object", "properties": object{"city": object{"type": "string"}, "days": object{"type": "integer"}}}}}}

// A replayed answer equals the first one field by field, whichever form was first and whichever is asked for.
func TestLLMReplayEqualsFirst(t *testing.T) {
	t.Parallel()
	c := newLLM(t, withValkey(t), map[string]fakellm.Behaviour{"m": {Tokens: 12}, "long": {Tokens: 700}})
	bodies := map[string]object{
		"text":    asking("m", "text", nil),
		"long":    asking("long", "long", nil),
		"tool":    asking("m", "tool", object{"tools": weather}),
		"JSON":    asking("m", "json", object{"response_format": object{"type": "json_object"}}),
		"choices": asking("m", "choices", object{"n": 3}),
		"unicode": asking("m", "e\u0301 and \u00e9 and \U0001F600 \u2028", nil),
	}
	for name, body := range bodies {
		streamed := with(body, object{"stream": true, "stream_options": object{"include_usage": true}})
		t.Run(name+"/streamed first", func(t *testing.T) {
			body, streamed := with(body, object{"seed": 1}), with(streamed, object{"seed": 1})
			first := c.open(0, "/chat/completions", streamed)
			want := folded(t, first.all())
			c.stored("/chat/completions", body)
			for replica := range 2 {
				again := c.open(replica, "/chat/completions", streamed)
				same(t, "streamed again", want, folded(t, again.all()))
				mustBe(t, again.res.Header, "hit")
				whole := c.mustAsk(replica, "/chat/completions", body)
				same(t, "not streamed", want, unfolded(decoded(t, whole.body)))
				mustBe(t, whole.header, "hit")
			}
		})
		t.Run(name+"/whole first", func(t *testing.T) {
			body, streamed := with(body, object{"seed": 2}), with(streamed, object{"seed": 2})
			first := c.mustAsk(0, "/chat/completions", body)
			want := decoded(t, first.body)
			c.stored("/chat/completions", body)
			for replica := range 2 {
				whole := c.mustAsk(replica, "/chat/completions", body)
				same(t, "whole again", want, decoded(t, whole.body))
				mustBe(t, whole.header, "hit")
				again := c.open(replica, "/chat/completions", streamed)
				same(t, "streamed", unfolded(decoded(t, first.body)), folded(t, again.all()))
				mustBe(t, again.res.Header, "hit")
			}
		})
	}
}

// stored waits until a replica has an answer in its cache: who asks before that joins what is about to end.
func (c *llmCluster) stored(path string, body object) {
	c.t.Helper()
	for replica := range c.replicas { // each has a copy then, and no slow Valkey can make a hit a miss
		until(c.t, 10*time.Second, "an answer being stored", func() string { return missingHit(c.mustAsk(replica, path, body).header) })
	}
}

// mustBe demands a cache status.
func mustBe(t *testing.T, h http.Header, want string) {
	t.Helper()
	if got := cacheStatus(h); got != want {
		t.Errorf("cache: %s, want %s (%s)", got, want, h.Get("Cache-Status"))
	}
}

// Without usage a stream says nothing about it, although the recording has it.
func TestLLMUsageOnlyIfAsked(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {}})
	body := asking("m", "usage", object{"stream": true})
	for range 2 {
		if o := folded(t, c.open(0, "/chat/completions", body).all()); o["usage"] != nil {
			t.Errorf("usage, which nobody asked for: %v", o["usage"])
		}
	}
	o := folded(t, c.open(0, "/chat/completions", with(body, object{"stream_options": object{"include_usage": true}})).all())
	if o["usage"] == nil {
		t.Error("no usage, which was asked for, from the recording")
	}
	if n := c.model.Count("m"); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// The other endpoints replay as well.
func TestLLMReplayOfOtherEndpoints(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {Tokens: 12}})
	for path, body := range map[string]object{
		"/responses":   {"model": "m", "input": "hello"},
		"/completions": {"model": "m", "prompt": "hello"},
		"/embeddings":  {"model": "m", "input": []string{"a", "b"}},
	} {
		first := c.mustAsk(0, path, body)
		c.stored(path, body)
		again := c.mustAsk(0, path, body)
		same(t, path, decoded(t, first.body), decoded(t, again.body))
		mustBe(t, again.header, "hit")
		if path == "/embeddings" {
			continue
		}
		streamed := c.open(0, path, with(body, object{"stream": true}))
		events := streamed.all()
		if got, want := textOf(t, events), contentOf(t, first.body); got != want {
			t.Errorf("%s streamed: %q, want %q", path, got, want)
		}
		if path == "/responses" {
			last := decoded(t, []byte(events[len(events)-1].data))
			same(t, path+" streamed", decoded(t, first.body), last["response"].(object))
			for i, e := range events {
				if n := fmt.Sprint(decoded(t, []byte(e.data))["sequence_number"]); n != strconv.Itoa(i) {
					t.Errorf("event %d has number %s", i, n)
				}
			}
		}
	}
	// A first answer in a stream, as one.
	streamed := c.open(0, "/responses", object{"model": "m", "input": "other", "stream": true}).all()
	whole := c.mustAsk(0, "/responses", object{"model": "m", "input": "other"})
	same(t, "responses", decoded(t, []byte(streamed[len(streamed)-1].data))["response"].(object), decoded(t, whole.body))
}

// 200 identical requests over two replicas, in both forms and with their fields in any order, are one call.
func TestLLMManyAreOneCall(t *testing.T) {
	heavy(t)
	t.Run("without Valkey", func(t *testing.T) { manyAreOneCall(t, newLLM(t, nil, manyModel)) })
	t.Run("with Valkey", func(t *testing.T) { manyAreOneCall(t, newLLM(t, withValkey(t), manyModel)) })
}

var manyModel = map[string]fakellm.Behaviour{"m": {Tokens: 30, FirstToken: 800 * time.Millisecond, Interval: 30 * time.Millisecond}}

func manyAreOneCall(t *testing.T, c *llmCluster) {
	const requests = 200
	var wait sync.WaitGroup
	nonces := make([]string, requests)
	statuses := make([]string, requests)
	for i := range requests {
		body := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":"same"}],"temperature":0.5,"user":"u%d"}`, i)
		if i%4 >= 2 {
			body = fmt.Sprintf(`{ "stream": %v, "temperature":0.50,"messages":[{"content":"same","role":"user"}],"model":"m"}`, i%4 == 2)
		}
		wait.Go(func() {
			a, err := c.ask(i%2, "/chat/completions", body)
			if err != nil || a.status != http.StatusOK {
				t.Errorf("request %d: %v, %d %.300s", i, err, a.status, a.body)
				return
			}
			statuses[i] = cacheStatus(a.header)
			text := ""
			if i%4 == 2 {
				text = textOf(t, parsed(a.body))
			} else {
				text = contentOf(t, a.body)
			}
			nonces[i] = checkAnswer(t, text, "same", 30)
		})
	}
	wait.Wait()
	if n := c.model.Count("m"); n != 1 {
		t.Errorf("%d calls", n)
	}
	if distinct := slices.Compact(slices.Sorted(slices.Values(nonces))); len(distinct) != 1 {
		t.Errorf("%d different answers", len(distinct))
	}
	counts := map[string]int{}
	for _, s := range statuses {
		counts[s]++
	}
	t.Logf("cache: %v", counts)
	if counts["miss"] != 1 || counts["collapsed"] < requests/2 {
		t.Errorf("one should have missed and most of the others have joined: %v", counts)
	}
}

// with is a copy with more fields.
func with(o, more object) object {
	out := object{}
	for k, v := range o {
		out[k] = v
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

// same compares field by field.
func same(t *testing.T, what string, want, got object) {
	t.Helper()
	for k := range with(want, got) {
		if !reflect.DeepEqual(want[k], got[k]) {
			t.Errorf("%s: %s is\n%v, want\n%v", what, k, got[k], want[k])
		}
	}
}
