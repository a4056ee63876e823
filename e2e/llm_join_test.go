package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// held is a model that stops after some tokens, until the returned function is called.
func held(after, tokens int) (fakellm.Behaviour, func()) {
	gate := make(chan struct{})
	return fakellm.Behaviour{Tokens: tokens, Hold: gate, After: after}, sync.OnceFunc(func() { close(gate) })
}

// Who asks the same while an answer is under way gets it from its first token on, live, on any replica.
func TestLLMJoinersStreamLive(t *testing.T) {
	t.Parallel()
	model, release := held(5, 20)
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
	body := asking("m", "join", object{"stream": true})
	first := c.open(0, "/chat/completions", body)
	first.await(" 4")
	streams := []*eventStream{first, c.open(0, "/chat/completions", body), c.open(1, "/chat/completions", body), c.open(1, "/chat/completions", body)}
	for _, s := range streams {
		s.await(" 4") // while the model holds the rest back
	}
	whole := make(chan answer, 1)
	go func() {
		a, err := c.ask(1, "/chat/completions", asking("m", "join", nil)) // in the other form
		if err != nil {
			t.Errorf("a joiner that does not stream: %v", err)
		}
		whole <- a
	}()
	release()
	nonces := map[string]bool{}
	for _, s := range streams {
		nonces[checkAnswer(t, textOf(t, s.all()), "join", 20)] = true
	}
	nonces[checkAnswer(t, contentOf(t, (<-whole).body), "join", 20)] = true
	if n := c.model.Count("m"); n != 1 || len(nonces) != 1 {
		t.Errorf("%d calls, %d answers", n, len(nonces))
	}
	if got := cacheStatus(streams[2].res.Header); got != "collapsed" {
		t.Errorf("a joiner's cache status: %s", got)
	}
}

// The one who asked first may leave: the answer goes on for the others and is stored.
func TestLLMLeadersClientLeaves(t *testing.T) {
	t.Parallel()
	model, release := held(3, 12)
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
	body := asking("m", "leave", object{"stream": true})
	first := c.open(0, "/chat/completions", body)
	first.await(" 2")
	joined := c.open(1, "/chat/completions", body)
	joined.await(" 2")
	first.leave()
	release()
	nonce := checkAnswer(t, textOf(t, joined.all()), "leave", 12)
	if calls := c.model.Calls("m"); len(calls) != 1 || calls[0].Aborted {
		t.Fatalf("calls: %d", len(calls))
	}
	again := c.mustAsk(0, "/chat/completions", asking("m", "leave", nil))
	if got := checkAnswer(t, contentOf(t, again.body), "leave", 12); got != nonce || c.model.Count("m") != 1 {
		t.Errorf("it was not stored: %s, first %s, %d calls", got, nonce, c.model.Count("m"))
	}
}

// A replica that dies in the middle of a call is replaced, and its joiners elsewhere see no error and no token twice, if
// the model says the same again.
func TestLLMLeaderKilled(t *testing.T) {
	heavy(t)
	for _, path := range []string{"/chat/completions", "/responses"} {
		t.Run(path[1:], func(t *testing.T) {
			model, release := held(6, 25)
			model.Fixed = true
			c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
			body := object{"model": "m", "input": "killed", "stream": true}
			if path == "/chat/completions" {
				body = asking("m", "killed", object{"stream": true})
			}
			leader := c.open(0, path, body)
			leader.await(" 5")
			joined := []*eventStream{c.open(1, path, body), c.open(1, path, body)}
			for _, s := range joined {
				s.await(" 5")
			}
			c.replicas[0].kill()
			killed := time.Now()
			until(t, 15*time.Second, "another replica asking the model", func() string {
				if n := c.model.Count("m"); n < 2 {
					return fmt.Sprintf("%d calls", n)
				}
				return ""
			})
			t.Logf("the leader was replaced after %v", time.Since(killed).Round(time.Millisecond))
			release()
			for _, s := range joined {
				checkAnswer(t, textOf(t, s.all()), "killed", 25)
			}
			if n := c.model.Count("m"); n != 2 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A model that says something else the second time cannot go on where the first call was. Who has a part is told, and
// gets nothing twice and nothing of two answers; who has nothing yet gets the second answer.
func TestLLMLeaderKilledAndModelDiffers(t *testing.T) {
	heavy(t)
	model, release := held(6, 25)
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
	body := asking("m", "differs", object{"stream": true})
	c.open(0, "/chat/completions", body).await(" 5")
	joined := c.open(1, "/chat/completions", body)
	joined.await(" 5")
	whole := make(chan answer, 1)
	go func() {
		a, err := c.ask(1, "/chat/completions", asking("m", "differs", nil))
		if err != nil || a.status != http.StatusOK {
			t.Errorf("who had nothing yet: %v, %d %s", err, a.status, a.body)
		}
		whole <- a
	}()
	before := textOf(t, joined.events)
	c.replicas[0].kill()
	until(t, 15*time.Second, "another replica asking the model", func() string {
		if n := c.model.Count("m"); n < 2 {
			return fmt.Sprintf("%d calls", n)
		}
		return ""
	})
	release()
	for ok := true; ok; {
		_, ok = joined.next()
	}
	last := joined.events[len(joined.events)-1]
	if joined.ended || !strings.Contains(last.data, `"error"`) {
		t.Errorf("nobody told that the answer is over: %+v", last)
	}
	if got := textOf(t, joined.events[:len(joined.events)-1]); got != before {
		t.Errorf("the answer went on from %q to %q", before, got)
	}
	if a := <-whole; a.status == http.StatusOK {
		checkAnswer(t, contentOf(t, a.body), "differs", 25)
	}
}

// streamID is the id under which a stream can be resumed.
func streamID(t *testing.T, h http.Header) string {
	t.Helper()
	id := h.Get("Forgewire-Id")
	if id == "" {
		t.Fatalf("a stream without an id: %v", h)
	}
	return id
}

// after is what to resume after: the number of a stream's last event.
func after(t *testing.T, s *eventStream) string {
	t.Helper()
	last := s.events[len(s.events)-1]
	if last.id == "" {
		t.Fatalf("an event without an id: %+v", last)
	}
	return last.id
}

// A stream that broke off goes on where it was, on either replica, while the answer is made and after.
func TestLLMResume(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/chat/completions", "/responses", "/completions"} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			model, release := held(8, 30)
			c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
			body := object{"model": "m", "stream": true}
			switch path {
			case "/responses":
				body["input"] = "resume"
			case "/completions":
				body["prompt"] = "resume"
			default:
				body = asking("m", "resume", body)
			}
			s := c.open(0, path, body)
			id := streamID(t, s.res.Header)
			s.await(" 4")
			at := after(t, s)
			s.leave()
			during := []*eventStream{c.resume(0, id, at), c.resume(1, id, at)}
			for _, r := range during {
				r.await(" 7") // live
			}
			release()
			want := textOf(t, s.events)
			for i, r := range during {
				checkAnswer(t, want+textOf(t, r.all()), "resume", 30)
				if r.events[0].id == at {
					t.Errorf("replica %d repeats event %s", i, at)
				}
			}
			for replica := range 2 {
				checkAnswer(t, want+textOf(t, c.resume(replica, id, at).all()), "resume", 30)
				checkAnswer(t, textOf(t, c.resume(replica, id, "-1").all()), "resume", 30)
			}
			if n := c.model.Count("m"); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// Who reads an answer's channel, in a browser on any replica, gets each token as it comes.
func TestLLMChannelIsLive(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {Tokens: 200, Interval: 50 * time.Millisecond}})
	s := c.open(0, "/chat/completions", asking("m", "watched", object{"stream": true}))
	s.await(" 2")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	u := fmt.Sprintf("http://%s/v1/channels/llm:%s/events", c.replicas[1].addr, streamID(t, s.res.Header))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := llmClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the answer ended before it was told at once: %d %v", res.StatusCode, lines.Err())
		}
		if strings.Contains(lines.Text(), `"live":true`) {
			return
		}
	}
}

// An id is nobody's but its tenant's, and one that was never given out is not found.
func TestLLMResumeRefused(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {}})
	s := c.open(0, "/chat/completions", asking("m", "mine", object{"stream": true}))
	s.all()
	id := streamID(t, s.res.Header)
	for name, request := range map[string]struct {
		id, after, key string
		status         int
	}{
		"no key":      {id, "0", "", http.StatusUnauthorized},
		"wrong key":   {id, "0", "wrong-key-0123456789", http.StatusUnauthorized},
		"unknown":     {"resp_0123456789abcdef", "0", apiKey, http.StatusNotFound},
		"nonsense":    {strings.Repeat("x", 5000), "0", apiKey, http.StatusNotFound},
		"not a place": {id, "first", apiKey, http.StatusBadRequest},
	} {
		u := fmt.Sprintf("http://%s/v1/responses/%s?stream=true&starting_after=%s", c.replicas[1].addr, request.id, request.after)
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, u, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if request.key != "" {
			req.Header.Set("Authorization", "Bearer "+request.key)
		}
		res, err := llmClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != request.status {
			t.Errorf("%s: %d, want %d", name, res.StatusCode, request.status)
		}
	}
}
