package llm

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// told writes messages to an answer's channel, as replicas do that are gone by now.
func (n *network) told(id string, messages ...string) {
	n.t.Helper()
	for _, m := range messages {
		m = strings.ReplaceAll(m, "HEAD", `"head":{"endpoint":"responses","scope":"`+hashed("tenant:default", id)+`","model":"m","upstream":"default","stream":true}`)
		if err := n.log.Append(context.Background(), channelOf(id), []byte(m)); err != nil {
			n.t.Fatal(err)
		}
	}
}

func events(take, attempt, from int, texts ...string) string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = fmt.Sprintf(`{"type":"response.x","sequence_number":%d,"delta":%q}`, from+i, text)
	}
	return fmt.Sprintf(`{"attempt":%d,"take":%d,"from":%d,"events":[%s]}`, attempt, take, from, strings.Join(all, ","))
}

// TestNobodyGetsTheEndOfAnotherAnswer: a leader died, and its successor got another answer. Who has a part of one goes on
// with that one, or not at all.
func TestNobodyGetsTheEndOfAnotherAnswer(t *testing.T) {
	n := newNetwork(t)
	r := n.replica(one(t, newUpstream(t)), nil)
	const second = 1 << takeBits
	n.told("fw_twice", `{"attempt":1,"take":0,HEAD}`, events(0, 1, 0, "old0", "old1", "old2"), `{"attempt":2,"take":0,"held":3}`,
		`{"attempt":2,"take":1,HEAD}`, events(1, 2, 0, "new0", "new1", "new2", "new3", "new4"), `{"attempt":2,"take":1,"end":{"done":true}}`)
	get := func(after int) string {
		return r.do(t.Context(), t, "GET", fmt.Sprintf("responses/fw_twice?stream=true&starting_after=%d", after), "").body
	}
	for _, after := range []int{0, 1, 2, 5, 2*second + 1} {
		if got := get(after); !strings.Contains(got, "stream_interrupted") || strings.Contains(got, "new") {
			t.Errorf("after %d: %s", after, got)
		}
	}
	all := get(-1)
	if strings.Contains(all, "old") || !strings.Contains(all, "new0") || !strings.Contains(all, "new4") {
		t.Errorf("%s", all)
	}
	// What clients are given to resume with says which answer they have, as an id and inside, where SDKs look.
	for i := range 5 {
		if position := fmt.Sprint(second + i); !strings.Contains(all, "id: "+position+"\n") || !strings.Contains(all, `"sequence_number":`+position+`,`) {
			t.Errorf("no %s in %s", position, all)
		}
	}
	if got := get(second + 2); !strings.HasPrefix(got, "event: response.x\nid: "+fmt.Sprint(second+3)+"\n") || !strings.Contains(got, "new4") {
		t.Errorf("%s", got)
	}
}

// TestALogThatIsBehindIsWaitedFor: the client has events of a new answer that have not reached this replica.
func TestALogThatIsBehindIsWaitedFor(t *testing.T) {
	n := newNetwork(t)
	r := n.replica(one(t, newUpstream(t)), nil)
	n.told("fw_late", `{"attempt":1,"take":0,HEAD}`, events(0, 1, 0, "old0", "old1", "old2", "old3"), `{"attempt":2,"take":0,"held":4}`)
	got := make(chan reply, 1)
	go func() {
		got <- r.do(t.Context(), t, "GET", fmt.Sprintf("responses/fw_late?stream=true&starting_after=%d", 1<<takeBits|1), "")
	}()
	eventually(t, 5e9, "somebody reads the log", func() bool {
		r.elector.mu.Lock()
		defer r.elector.mu.Unlock()
		return len(r.elector.watched) > 0
	})
	n.told("fw_late", `{"attempt":2,"take":1,HEAD}`, events(1, 2, 0, "new0", "new1", "new2"), `{"attempt":2,"take":1,"end":{"done":true}}`)
	if body := (<-got).body; strings.Contains(body, "old") || strings.Contains(body, "new1") || !strings.Contains(body, "new2") {
		t.Errorf("%s", body)
	}
}

// TestWhoHasMoreThanTheLogHadIsRefused: what a dead leader told its own clients, and nobody else, may not be what its
// successor tells.
func TestWhoHasMoreThanTheLogHadIsRefused(t *testing.T) {
	n := newNetwork(t)
	r := n.replica(one(t, newUpstream(t)), nil)
	c := &copier{tape: newTape("fw_more")}
	first := []string{`{"attempt":1,"take":0,"live":true,"head":{"endpoint":"responses","stream":true}}`, strings.Replace(events(0, 1, 0, "e0", "e1"), `"take":0`, `"take":0,"live":true`, 1)}
	for _, m := range first {
		if err := c.take([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	first[0] = `{"attempt":1,"take":0,"live":true,HEAD}`
	n.told("fw_more", append(first, string(c.claim(2)), events(0, 2, 2, "e2", "e3", "e4"), `{"attempt":2,"take":0,"end":{"done":true}}`)...)
	for after, refused := range map[int]bool{0: false, 1: false, 2: true, 3: true} {
		got := r.do(t.Context(), t, "GET", fmt.Sprintf("responses/fw_more?stream=true&starting_after=%d", after), "").body
		if strings.Contains(got, "stream_interrupted") != refused || strings.Contains(got, "e4") == refused {
			t.Errorf("after %d: %s", after, got)
		}
	}
}

// TestWhoLosesTheLogIsOnHisOwn: a replica that copies an answer, and then cannot read the log, asks the model itself. Its
// clients have the id of the other answer, and are not given the end of that.
func TestWhoLosesTheLogIsOnHisOwn(t *testing.T) {
	u := newUpstream(t)
	g := make(gate)
	u.word = func(call int64, i int) bool { return call > 1 || g.word(call, i) }
	n := newNetwork(t)
	log := &deafLog{memoryLog: n.log, deaf: make(chan struct{})}
	a, b := n.replica(one(t, u), nil), n.replica(one(t, u), func(c *Config) { c.Log = log })
	leader := a.listen(t, ask("deaf", streamed))
	g <- struct{}{}
	leader.until(t, "alpha")
	joiner := b.listen(t, ask("deaf", streamed))
	joiner.until(t, "alpha")
	close(log.deaf)
	body := joiner.end(t)
	if text, done := said(t, body); text != whole+" #2" || !done {
		t.Fatal(body)
	}
	b.settled(t)
	hit := b.post(t, "chat/completions", ask("deaf", streamed))
	g.open()
	if text, _ := said(t, leader.end(t)); text != whole+" #1" {
		t.Error(text)
	}
	id := joiner.resp.Header.Get(HeaderID)
	if id != leader.resp.Header.Get(HeaderID) {
		t.Error(id)
	}
	ids := regexp.MustCompile(`(?m)^id: (\d+)$`).FindAllStringSubmatch(body, -1)
	for _, after := range ids[1:] {
		got := a.do(t.Context(), t, "GET", "responses/"+id+"?stream=true&starting_after="+after[1], "").body
		if !strings.Contains(got, "stream_interrupted") || strings.Contains(got, "#1") {
			t.Errorf("after %s: %s", after[1], got)
		}
	}
	if text, _ := said(t, hit.body); text != whole+" #2" || hit.header.Get(HeaderID) == id {
		t.Errorf("%+v", hit)
	}
}

// deafLog is a log that followers cannot read any more once deaf is closed.
type deafLog struct {
	*memoryLog
	deaf chan struct{}
}

func (l *deafLog) Follow(channel string) (Follower, error) {
	f, err := l.memoryLog.Follow(channel)
	return &deafFollower{f, l.deaf}, err
}

type deafFollower struct {
	Follower
	deaf chan struct{}
}

func (f *deafFollower) Next(ctx context.Context) ([][]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-f.deaf:
			cancel()
		case <-ctx.Done():
		}
	}()
	return f.Follower.Next(ctx)
}

// TestAStreamWithAnIDContinues, and one that cannot has none.
func TestAStreamWithAnIDContinues(t *testing.T) {
	u := newUpstream(t)
	u.handle = func(call int64, w http.ResponseWriter, r *http.Request, b []byte) bool {
		return strings.Contains(string(b), "whole") && answering(200, "application/json", answers[0].object)(call, w, r, b)
	}
	n := newNetwork(t)
	r := n.replica(one(t, u), nil)
	forgets := n.replica(one(t, u), func(c *Config) { c.LogKept = time.Nanosecond })
	for _, c := range []struct {
		prompt, first string
		at            *replica
		ids           [2]bool // of what the model answers, and of the hit
	}{{"streamed", streamed, r, [2]bool{true, true}}, {"not asked as one", "", r, [2]bool{true, false}}, {"whole", streamed, r, [2]bool{false, false}},
		{"old", streamed, forgets, [2]bool{true, false}}} {
		for i, more := range []string{c.first, streamed} {
			got := c.at.post(t, "chat/completions", ask(c.prompt, more))
			c.at.settled(t)
			id := got.header.Get(HeaderID)
			if hit := strings.Contains(got.header.Get("Cache-Status"), "hit"); got.status != 200 || (id != "") != c.ids[i] || hit != (i == 1) {
				t.Errorf("%s: %d %q, a hit: %v", c.prompt, got.status, id, hit)
			}
			if id == "" || more == "" {
				continue
			}
			for _, on := range []*replica{r, forgets} {
				if again := on.do(t.Context(), t, "GET", "responses/"+id+"?stream=true", ""); again.body != got.body || again.header.Get(HeaderID) != id {
					t.Errorf("%s: %s\nwant %s", c.prompt, again.body, got.body)
				}
			}
		}
	}
}

func TestResumesAreBounded(t *testing.T) {
	n := newNetwork(t)
	r := n.replica(one(t, newUpstream(t)), nil)
	n.told("fw_one", `{"attempt":1,"take":0,HEAD}`, events(0, 1, 0, "e0"), `{"attempt":1,"take":0,"end":{"done":true}}`)
	r.resumes.Store(maxResumes)
	get := func() reply { return r.do(t.Context(), t, "GET", "responses/fw_one?stream=true", "") }
	if got := get(); got.status != 503 || !strings.Contains(got.body, "overloaded") || got.header.Get("Retry-After") == "" {
		t.Errorf("%+v", got)
	}
	r.resumes.Add(-1)
	for range 2 {
		if got := get(); got.status != 200 {
			t.Errorf("%+v", got)
		}
	}
}
