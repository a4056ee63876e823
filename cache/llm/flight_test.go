package llm

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate lets an upstream's stream go on word by word.
type gate chan struct{}

func (g gate) word(int64, int) bool { <-g; return true }

func (g gate) open() { close(g) }

// liveStream is a response that is read while it comes.
type liveStream struct {
	resp   *http.Response
	cancel context.CancelFunc
	body   chan string // all of it, at the end

	mu  sync.Mutex
	all strings.Builder // what was read until now; guarded by mu
}

func (r *replica) listen(t testing.TB, body string, headers ...string) *liveStream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &liveStream{cancel: cancel, body: make(chan string, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := r.open(ctx, "POST", "chat/completions", body, headers...)
		if err != nil {
			l.body <- "error: " + err.Error()
			return
		}
		defer resp.Body.Close()
		l.resp = resp
		piece := make([]byte, 64<<10)
		for {
			n, err := resp.Body.Read(piece)
			l.mu.Lock()
			l.all.Write(piece[:n])
			all := l.all.String()
			l.mu.Unlock()
			if err != nil {
				l.body <- all
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return l
}

// until waits for a text to be among what was read.
func (l *liveStream) until(t testing.TB, text string) {
	t.Helper()
	eventually(t, 10*time.Second, text+" comes", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return strings.Contains(l.all.String(), text)
	})
}

func (l *liveStream) end(t testing.TB) string {
	t.Helper()
	select {
	case b := <-l.body:
		return b
	case <-time.After(15 * time.Second):
		t.Fatal("the stream does not end")
		return ""
	}
}

func TestIdenticalRequestsOverTwoReplicasAreOneCall(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = g.word
	n := newNetwork(t)
	replicas := []*replica{n.replica(one(t, u), nil), n.replica(one(t, u), nil)}
	answers := make(chan string, 200)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			more := streamed
			if i%5 == 0 {
				more = ""
			}
			if i < 2 {
				more = streamed // whoever leads, leads a stream
			}
			got := replicas[i%2].post(t, "chat/completions", ask("same", more))
			if more == "" {
				answers <- content(t, got.body)
				return
			}
			text, done := said(t, got.body)
			if !done {
				t.Errorf("no end: %s", got.body)
			}
			answers <- text
		})
		if i == 1 { // the two of the first are elected before the others come
			eventually(t, 5*time.Second, "a call", func() bool { return u.calls.Load() == 1 })
		}
	}
	g.open()
	wg.Wait()
	for range 200 {
		if a := <-answers; a != whole+" #1" {
			t.Errorf("%q", a)
		}
	}
	if c := u.calls.Load(); c != 1 {
		t.Errorf("%d calls", c)
	}
	for _, r := range replicas {
		r.settled(t)
		if got := r.post(t, "chat/completions", ask("same", "")); !strings.Contains(got.header.Get("Cache-Status"), "hit") || content(t, got.body) != whole+" #1" {
			t.Errorf("%+v", got)
		}
	}
}

func TestJoinersHearTokensAsTheyCome(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = g.word
	n := newNetwork(t)
	a, b := n.replica(one(t, u), nil), n.replica(one(t, u), nil)
	first := a.listen(t, ask("live", streamed))
	g <- struct{}{}
	first.until(t, "alpha")
	g <- struct{}{}
	first.until(t, "béta")
	near, far := a.listen(t, ask("live", streamed)), b.listen(t, ask("live", streamed))
	near.until(t, "béta")
	far.until(t, "béta")
	first.cancel() // its leaving ends nothing
	first.end(t)
	g <- struct{}{}
	near.until(t, "😀")
	far.until(t, "😀")
	g.open()
	for _, l := range []*liveStream{near, far} {
		body := l.end(t)
		if text, done := said(t, body); text != whole+" #1" || !done {
			t.Errorf("%s", body)
		}
		if s := l.resp.Header.Get("Cache-Status"); !strings.Contains(s, "collapsed") {
			t.Error(s)
		}
		if strings.Count(body, "data: ") != 7 { // 5 words, the end, [DONE]: none doubled
			t.Errorf("%s", body)
		}
	}
	if c := u.calls.Load(); c != 1 {
		t.Errorf("%d calls", c)
	}
}

// mortal is a replica whose ties to the others can be cut, as when its machine dies.
type mortal struct {
	*memoryLog
	dead atomic.Bool
}

func (m *mortal) Append(ctx context.Context, channel string, messages ...[]byte) error {
	if m.dead.Load() {
		return errTestLog
	}
	return m.memoryLog.Append(ctx, channel, messages...)
}

func TestALeaderThatDiesIsReplaced(t *testing.T) {
	for _, differs := range []bool{false, true} {
		t.Run(fmt.Sprintf("differs %v", differs), func(t *testing.T) {
			u := newUpstream(t)
			first, rest := make(gate), make(gate)
			u.word = func(call int64, i int) bool {
				if call == 1 {
					return first.word(call, i)
				}
				if i == 2 {
					<-rest
				}
				return true
			}
			if differs {
				u.handle = func(call int64, w http.ResponseWriter, r *http.Request, _ []byte) bool {
					if call == 2 {
						w.Header().Set("Content-Type", "text/event-stream")
						fmt.Fprint(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"other\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
					}
					return call == 2
				}
			}
			n := newNetwork(t)
			log := &mortal{memoryLog: n.log}
			a := n.replica(one(t, u), func(c *Config) { c.Log = log })
			b := n.replica(one(t, u), nil)
			c := n.replica(one(t, u), nil)
			leader := a.listen(t, ask("die", streamed))
			first <- struct{}{}
			leader.until(t, "alpha")
			first <- struct{}{}
			joiners := []*liveStream{b.listen(t, ask("die", streamed)), c.listen(t, ask("die", streamed))}
			for _, j := range joiners {
				j.until(t, "béta")
			}
			whole2 := make(chan reply, 1)
			go func() { whole2 <- b.post(t, "chat/completions", ask("die", "")) }()
			log.dead.Store(true)
			a.elector.pool.Close()
			died := time.Now()
			eventually(t, 5*time.Second, "another call", func() bool { return u.calls.Load() == 2 })
			if took := time.Since(died); took > 1500*time.Millisecond { // a second, and what this machine is slow
				t.Errorf("replaced after %s", took)
			}
			rest.open()
			for _, j := range joiners {
				body := j.end(t)
				if differs {
					if !strings.Contains(body, `"code":"stream_interrupted"`) || strings.Contains(body, `"other"`) {
						t.Errorf("%s", body)
					}
					continue
				}
				if text, done := said(t, body); text != whole+" #2" || !done || strings.Count(body, "alpha") != 1 || strings.Contains(body, "chatcmpl-2") {
					t.Errorf("%s", body)
				}
			}
			got := <-whole2
			want := whole + " #2"
			if differs {
				want = "other"
			}
			if got.status != 200 || content(t, got.body) != want {
				t.Errorf("%+v", got)
			}
			first.open() // the dead one goes on for its own client
			if text, done := said(t, leader.end(t)); text != whole+" #1" || !done {
				t.Errorf("%q", text)
			}
		})
	}
}

func TestResume(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = g.word
	n := newNetwork(t)
	a, b := n.replica(one(t, u), nil), n.replica(one(t, u), nil)
	first := a.listen(t, ask("resume", streamed))
	g <- struct{}{}
	g <- struct{}{}
	first.until(t, "id: 1")
	id := first.resp.Header.Get("Forgewire-Id")
	first.cancel()
	first.end(t)
	got := make(chan reply, 8)
	for _, r := range []*replica{a, b} {
		go func() {
			got <- r.do(context.Background(), t, "GET", "responses/"+id+"?stream=true&starting_after=0", "")
		}()
	}
	g.open()
	check := func(got reply, want, firstID string) {
		t.Helper()
		text, done := said(t, got.body)
		if got.status != 200 || text != want || !done || !strings.HasPrefix(got.body, firstID) || got.header.Get("Forgewire-Id") != id {
			t.Errorf("%+v", got)
		}
	}
	for range 2 {
		check(<-got, " béta 😀 delta #1", "id: 1\n")
	}
	a.settled(t)
	for _, r := range []*replica{a, b} {
		get := func(path string, headers ...string) reply {
			return r.do(context.Background(), t, "GET", "responses/"+path, "", headers...)
		}
		check(get(id+"?stream=true&starting_after=2"), " delta #1", "id: 3\n")
		check(get(id+"?stream=true"), whole+" #1", "id: 0\n")
		check(get("chatcmpl-1?stream=true&starting_after=0"), " béta 😀 delta #1", "id: 1\n")
		check(get(id+"?stream=true&starting_after=100"), "", "data: [DONE]")
		if got := get(id); got.status != 200 || content(t, got.body) != whole+" #1" {
			t.Errorf("%+v", got)
		}
		for path, want := range map[string]int{"fw_unknown?stream=true": 404, id + "?stream=maybe": 400, id + "?stream=true&starting_after=x": 400, strings.Repeat("x", 300): 404, "a%20b": 404} {
			if got := get(path); got.status != want {
				t.Errorf("%s: %+v", path, got)
			}
		}
		// Nobody else's.
		for _, path := range []string{id, "chatcmpl-1"} {
			if got := get(path+"?stream=true", "X-Tenant", "other"); got.status != 404 {
				t.Errorf("%+v", got)
			}
		}
	}
}

// Some upstreams give the same ids again and again. One of several answers is as good as a wrong one.
func TestAnIDOfSeveralAnswersLeadsToNone(t *testing.T) {
	u := newUpstream(t)
	u.handle = streaming(word, finish, theEnd)
	n := newNetwork(t)
	a, b := n.replica(one(t, u), nil), n.replica(one(t, u), nil)
	get := func(r *replica, id string, headers ...string) int {
		return r.do(context.Background(), t, "GET", "responses/"+id+"?stream=true", "", headers...).status
	}
	first := a.post(t, "chat/completions", ask("one", streamed))
	other := a.post(t, "chat/completions", ask("one", streamed), "X-Tenant", "other")
	a.settled(t)
	if got := get(b, "c"); got != 200 {
		t.Errorf("the only one of its tenant: %d", got)
	}
	second := a.post(t, "chat/completions", ask("two", streamed))
	a.settled(t)
	for _, r := range []*replica{a, b} {
		if got := get(r, "c"); got != 404 {
			t.Errorf("one of two: %d", got)
		}
		if got := get(r, "c", "X-Tenant", "other"); got != 200 {
			t.Errorf("another tenant's: %d", got)
		}
	}
	for _, of := range []reply{first, second} {
		if got := get(b, of.header.Get(HeaderID)); got != 200 {
			t.Errorf("our id: %d", got)
		}
	}
	if got := get(b, other.header.Get(HeaderID)); got != 404 {
		t.Errorf("another tenant's of ours: %d", got)
	}
}

func TestResumeNeedsTheModelToBeAllowed(t *testing.T) {
	r, _ := single(t, nil)
	l := r.listen(t, ask("allowed", streamed))
	l.end(t)
	id := l.resp.Header.Get("Forgewire-Id")
	r.settled(t)
	for models, want := range map[string]int{"m": 200, "other": 403} {
		for _, form := range []string{"?stream=true", ""} {
			if got := r.do(context.Background(), t, "GET", "responses/"+id+form, "", "X-Models", models); got.status != want {
				t.Errorf("%s%s: %+v", models, form, got)
			}
		}
	}
}

// TestWhoReadsTheChannelHearsEachTokenAtOnce: a browser that subscribed to it on either replica.
func TestWhoReadsTheChannelHearsEachTokenAtOnce(t *testing.T) {
	for _, at := range []int{0, 1} {
		u := newUpstream(t)
		g := make(gate)
		u.word = g.word
		n := newNetwork(t)
		replicas := []*replica{n.replica(one(t, u), nil), n.replica(one(t, u), nil)}
		l := replicas[0].listen(t, ask("watched", streamed))
		g <- struct{}{}
		l.until(t, "id: 0")
		channel := channelOf(l.resp.Header.Get("Forgewire-Id"))
		replicas[at].Joined("llm:fw_unknown")
		replicas[at].Joined(channel)
		eventually(t, 5*time.Second, "the leader knows", func() bool {
			a := replicas[0].elector
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, lease := range a.led {
				if lease.isFollowed() {
					return true
				}
			}
			return false
		})
		g <- struct{}{}
		eventually(t, 5*time.Second, "an event that was not held back", func() bool {
			messages, _ := n.log.Read(context.Background(), channel, 1000)
			return strings.Contains(string(messages[len(messages)-1]), `"live":true`)
		})
		g.open()
		l.end(t)
		eventually(t, 5*time.Second, "nobody is told any more", func() bool {
			e := replicas[at].elector
			e.mu.Lock()
			defer e.mu.Unlock()
			return len(e.noticed) == 0
		})
	}
}

func TestAResumedStreamEndsWithItsLeader(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = g.word
	n := newNetwork(t)
	log := &mortal{memoryLog: n.log}
	a, b := n.replica(one(t, u), func(c *Config) { c.Log = log }), n.replica(one(t, u), nil)
	first := a.listen(t, ask("gone", streamed))
	g <- struct{}{}
	first.until(t, "id: 0")
	eventually(t, 5*time.Second, "the token is in the log", func() bool {
		n.log.mu.Lock()
		defer n.log.mu.Unlock()
		return len(n.log.channels[channelOf(first.resp.Header.Get("Forgewire-Id"))]) > 1
	})
	log.dead.Store(true)
	a.elector.pool.Close()
	got := b.do(context.Background(), t, "GET", "responses/"+first.resp.Header.Get("Forgewire-Id")+"?stream=true", "")
	if !strings.Contains(got.body, "alpha") || !strings.Contains(got.body, "stream_interrupted") {
		t.Errorf("%+v", got)
	}
	g.open()
	first.end(t)
}

func TestWithoutElectionsEverybodyIsOnHisOwn(t *testing.T) {
	u := newUpstream(t)
	n := newNetwork(t)
	r := n.replica(one(t, u), nil)
	n.log.fails = true
	r.elector.pool.Close()
	begun := time.Now()
	for i := range 3 {
		got := r.post(t, "chat/completions", ask(fmt.Sprint("away", i), streamed))
		if text, done := said(t, got.body); !done || text != fmt.Sprintf("%s #%d", whole, i+1) {
			t.Errorf("%+v", got)
		}
	}
	r.settled(t)
	if got := r.post(t, "chat/completions", ask("away1", "")); !strings.Contains(got.header.Get("Cache-Status"), "hit") {
		t.Errorf("%+v", got)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestNoCacheAndNoStoreJoinNobody(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = g.word
	r := newNetwork(t).replica(one(t, u), nil)
	all := []*liveStream{r.listen(t, ask("alone", streamed)), r.listen(t, ask("alone", streamed), "Cache-Control", "no-cache"),
		r.listen(t, ask("alone", streamed), "Cache-Control", "no-store")}
	eventually(t, 5*time.Second, "three calls", func() bool { return u.calls.Load() == 3 })
	g.open()
	for _, l := range all {
		if _, done := said(t, l.end(t)); !done {
			t.Error("no end")
		}
	}
}

func TestAClientThatLeavesEndsWhatNobodyElseWants(t *testing.T) {
	u := newUpstream(t)
	ended := make(chan struct{})
	u.handle = func(_ int64, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
		return true
	}
	r := newNetwork(t).replica(one(t, u), nil)
	l := r.listen(t, ask("leave", streamed), "Cache-Control", "no-store")
	l.until(t, `"a"`)
	l.cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the upstream still works")
	}
	r.settled(t)
	if run := <-r.runs; run.Cache != Bypass || run.Error != "client_left" {
		t.Errorf("%+v", run)
	}
}

func TestAnIdleReplicaAsksNothing(t *testing.T) {
	r, _ := single(t, nil)
	r.post(t, "chat/completions", ask("idle", streamed))
	r.settled(t)
	r.elector.mu.Lock()
	r.elector.sweepBy = time.Now()
	r.elector.mu.Unlock()
	eventually(t, 5*time.Second, "the heart rests", func() bool {
		before := r.elector.pool.Stat().AcquireCount()
		timer := time.NewTimer(3 * beat)
		<-timer.C
		return r.elector.pool.Stat().AcquireCount() == before
	})
}
