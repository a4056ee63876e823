package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// valkeyCommand sends commands to a Valkey and demands that each is answered in order.
func valkeyCommand(t testing.TB, port int, commands ...string) {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a read that fails says so
	lines := bufio.NewReader(conn)
	for _, command := range commands {
		fmt.Fprintf(conn, "%s\r\n", command)
		if line, err := lines.ReadString('\n'); err != nil || strings.HasPrefix(line, "-") {
			t.Fatalf("%s: %v %s", command, err, line)
		}
	}
}

// Whatever becomes of Valkey in mid-stream, answers flow as if nobody had cached any, and it comes back by itself.
func TestLLMValkeyAway(t *testing.T) {
	variant(t)
	heavy(t)
	stack := withValkey(t)
	port := stack.Valkey.Port()
	for name, accident := range map[string]struct{ begin, end func() error }{
		"killed": {stack.Valkey.Kill, func() error { return stack.Valkey.Start(t.Context()) }},
		"hung":   {stack.Valkey.Pause, stack.Valkey.Resume},
		"full": {func() error {
			valkeyCommand(t, port, "CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
			return nil
		}, func() error {
			valkeyCommand(t, port, "CONFIG SET maxmemory 128mb", "CONFIG SET maxmemory-policy allkeys-lru")
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			model, release := held(4, 15)
			c := newLLM(t, stack, map[string]fakellm.Behaviour{"held": model, "m": {Tokens: 5}})
			c.t = t
			c.mustAsk(0, "/chat/completions", asking("m", name+" before", nil))
			body := asking("held", name, object{"stream": true})
			s := c.open(0, "/chat/completions", body)
			s.await(" 3")
			joined := c.open(1, "/chat/completions", body)
			joined.await(" 3")
			if err := accident.begin(); err != nil {
				t.Fatal(err)
			}
			slowest := time.Duration(0)
			for i := range 30 {
				question := fmt.Sprint(name, " during ", i%20)
				a := c.mustAsk(i%2, "/chat/completions", asking("m", question, nil))
				checkAnswer(t, contentOf(t, a.body), question, 5)
				slowest = max(slowest, a.took)
			}
			t.Logf("the slowest answer took %v", slowest.Round(time.Millisecond))
			if slowest > 3*time.Second {
				t.Errorf("an answer took %v", slowest)
			}
			release()
			checkAnswer(t, textOf(t, s.all()), name, 15)
			checkAnswer(t, textOf(t, joined.all()), name, 15)
			if err := accident.end(); err != nil {
				t.Fatal(err)
			}
			n := 0
			until(t, 30*time.Second, "a hit on the other replica", func() string {
				n++
				question := fmt.Sprint(name, " after ", n)
				c.mustAsk(0, "/chat/completions", asking("m", question, nil))
				return missingHit(c.mustAsk(1, "/chat/completions", asking("m", question, nil)).header)
			})
		})
	}
}

func missingHit(h http.Header) string {
	if got := cacheStatus(h); got != "hit" {
		return got
	}
	return ""
}

// Without Postgres answers flow; what waits for it is runs and joining across replicas.
func TestLLMPostgresAway(t *testing.T) {
	variant(t)
	heavy(t)
	stack := withValkey(t)
	for name, accident := range map[string]struct{ begin, end func() error }{
		"killed": {stack.Postgres.Kill, func() error { return stack.Postgres.Start(t.Context()) }},
		"hung":   {stack.Postgres.Pause, stack.Postgres.Resume},
	} {
		t.Run(name, func(t *testing.T) {
			model, release := held(4, 15)
			c := newLLM(t, stack, map[string]fakellm.Behaviour{"held": model, "m": {Tokens: 5}})
			c.t = t
			known := name + " before"
			c.stored("/chat/completions", asking("m", known, nil))
			s := c.open(0, "/chat/completions", asking("held", name, object{"stream": true}))
			s.await(" 3")
			if err := accident.begin(); err != nil {
				t.Fatal(err)
			}
			slowest := time.Duration(0)
			for i := range 20 {
				question := fmt.Sprint(name, " during ", i)
				a := c.mustAsk(i%2, "/chat/completions", asking("m", question, nil))
				checkAnswer(t, contentOf(t, a.body), question, 5)
				slowest = max(slowest, a.took)
				if hit := c.mustAsk(i%2, "/chat/completions", asking("m", known, nil)); missingHit(hit.header) != "" {
					t.Errorf("what was cached is no hit: %s", cacheStatus(hit.header))
				}
			}
			t.Logf("the slowest answer took %v", slowest.Round(time.Millisecond))
			if slowest > 5*time.Second {
				t.Errorf("an answer took %v", slowest)
			}
			release()
			checkAnswer(t, textOf(t, s.all()), name, 15)
			if err := accident.end(); err != nil {
				t.Fatal(err)
			}
			for _, r := range c.replicas {
				r.waitReady(45 * time.Second)
			}
			joins(t, c, name)
		})
	}
}

// A failure is told once, also if the log cannot hear of it.
func TestLLMFailureWhilePostgresHangs(t *testing.T) {
	heavy(t)
	server := ownServer(t, nil)
	model, release := held(4, 10)
	model.Fault, model.Times = fakellm.Cut, 1
	m := newModel(t, map[string]fakellm.Behaviour{"m": model})
	c := &llmCluster{model: m, cluster: newCluster(t, 2, options{server: server, env: []string{"FORGEWIRE_UPSTREAM_URL=" + m.URL(), "FORGEWIRE_UPSTREAM_KEY=" + modelKey}})}
	s := c.open(0, "/chat/completions", asking("m", "hangs", object{"stream": true}))
	s.await(" 3")
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	release()
	for ok := true; ok; {
		_, ok = s.next()
	}
	if s.ended {
		t.Error("the stream that was cut ended as a whole one")
	}
	checkAnswer(t, contentOf(t, c.afterwards(asking("m", "hangs", nil)).body), "hangs", 10)
}

// Who wants the whole answer, and joined a stream that told of an error, gets the error and not the part before it.
func TestLLMErrorInStreamIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/chat/completions", "/responses"} {
		model, release := held(4, 10)
		model.Fault = fakellm.ErrorEvent
		c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": model})
		body := object{"model": "m", "input": "part"}
		if path == "/chat/completions" {
			body = asking("m", "part", nil)
		}
		s := c.open(0, path, with(body, object{"stream": true}))
		s.await(" 3")
		whole := make(chan answer, 2)
		for replica := range 2 {
			go func() {
				a, err := c.ask(replica, path, body)
				if err != nil {
					t.Error(err)
				}
				whole <- a
			}()
		}
		during(t, 3*time.Second) // in which both join, also on a busy machine: only a stream has the error
		release()
		for range 2 {
			if a := <-whole; a.status < 500 || !strings.Contains(string(a.body), `"error"`) {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
	}
}

// joins demands that requests on two replicas become one call again.
func joins(t *testing.T, c *llmCluster, name string) {
	t.Helper()
	n := 0
	until(t, 30*time.Second, "a request joining one on the other replica", func() string {
		n++
		question := fmt.Sprint(name, " joins ", n)
		model, release := held(2, 8)
		defer release()
		c.model.Set("joins", model)
		body := asking("joins", question, object{"stream": true})
		first := c.open(0, "/chat/completions", body)
		first.await(" 1")
		before := c.model.Count("joins")
		second := c.open(1, "/chat/completions", body)
		second.await(" 1")
		release()
		checkAnswer(t, textOf(t, first.all()), question, 8)
		checkAnswer(t, textOf(t, second.all()), question, 8)
		if c.model.Count("joins") != before {
			return "the model was asked twice"
		}
		return ""
	})
}

// A client that stops reading costs neither the others, who get the same answer, nor the replica.
func TestLLMClientStopsReading(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"big": {Tokens: 8, Fault: fakellm.BigChunk, After: 2}})
	body := `{"model":"big","stream":true,"messages":[{"role":"user","content":"stuck"}]}`
	var stuck []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", c.replicas[0].addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4096) // smaller is better, and not needed
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			apiKey, len(body), body)
		var one [1]byte
		if _, err = conn.Read(one[:]); err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, conn)
	}
	for replica := range 2 {
		text := textOf(t, c.open(replica, "/chat/completions", body).all())
		if n := strings.Count(text, "x"); n != fakellm.BigSize {
			t.Errorf("replica %d: %d of %d bytes", replica, n, fakellm.BigSize)
		}
	}
	for _, conn := range stuck {
		conn.Close()
	}
	until(t, 10*time.Second, "the model being left in peace", func() string {
		if n := c.model.Active(); n > 0 {
			return fmt.Sprintf("%d calls are under way", n)
		}
		return ""
	})
}

// A replica that is told to end lets the answers that are under way end, within its grace.
func TestLLMDrain(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {Tokens: 40, Interval: 50 * time.Millisecond}})
	for calls, leader := range []int{0, 1} { // the replica that leaves leads, and then it follows
		prompt := fmt.Sprint("drain ", leader)
		body := asking("m", prompt, object{"stream": true})
		first := c.open(leader, "/chat/completions", body)
		first.await(" 3")
		joined := c.open(1-leader, "/chat/completions", body)
		joined.await(" 5")
		ended := make(chan struct{})
		go func() { defer close(ended); c.replicas[0].term() }()
		nonce := checkAnswer(t, textOf(t, first.all()), prompt, 40)
		if got := checkAnswer(t, textOf(t, joined.all()), prompt, 40); got != nonce {
			t.Errorf("%s: who joined got another answer", prompt)
		}
		<-ended
		checkAnswer(t, contentOf(t, c.mustAsk(1, "/chat/completions", asking("m", prompt, nil)).body), prompt, 40)
		if n := c.model.Count("m"); n != calls+1 {
			t.Errorf("%s: the model was asked %d times", prompt, n)
		}
		c.replicas[0].start()
		c.replicas[0].waitReady(30 * time.Second)
	}
}

// An answer may take longer than a request to any other route may.
func TestLLMLongStream(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{
		"paced": {Tokens: 70, Interval: 500 * time.Millisecond}, // 34.5 s
		"whole": {Tokens: 2, FirstToken: 34 * time.Second},
	})
	whole := make(chan answer, 1)
	go func() {
		a, err := c.ask(0, "/chat/completions", asking("whole", "long", nil))
		if err != nil || a.status != http.StatusOK {
			t.Errorf("not streamed: %v, %d %s", err, a.status, a.body)
		}
		whole <- a
	}()
	checkAnswer(t, textOf(t, c.open(0, "/chat/completions", asking("paced", "long", object{"stream": true})).all()), "long", 70)
	if a := <-whole; a.status == http.StatusOK {
		checkAnswer(t, contentOf(t, a.body), "long", 2)
	}
}
