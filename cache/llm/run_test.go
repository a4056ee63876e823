package llm

import (
	"net/http"
	"strings"
	"testing"
)

// TestBodiesAreKeptOnlyIfAsked: whatever came of the request, and whoever made the answer.
func TestBodiesAreKeptOnlyIfAsked(t *testing.T) {
	r, u := single(t, nil)
	fails := func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		http.Error(w, `{"error":{"message":"no such tangerine"}}`, http.StatusBadRequest)
		return true
	}
	for _, c := range []struct {
		name, more string
		headers    []string
		handle     func(int64, http.ResponseWriter, *http.Request, []byte) bool
		answer     string // what is kept; "" for nothing
		how        Outcome
	}{
		{"nobody asked", streamed, nil, nil, "", Miss},
		{"the request asks, of a hit", "", []string{HeaderLog, "true"}, nil, `"content":"alpha béta`, Hit},
		{"the key asks, of a streamed hit", streamed, []string{"X-Log", "1"}, nil, `"content":"alpha béta`, Hit},
		{"the request does not want what the key asks", "", []string{"X-Log", "1", HeaderLog, "false"}, nil, "", Hit},
		{"a miss", streamed, []string{"X-Log", "1", "Cache-Control", "no-cache"}, nil, `"content":"alpha béta`, Miss},
		{"not stored", "", []string{"X-Log", "1", "Cache-Control", "no-store"}, nil, `"content":"alpha béta`, Bypass},
		{"a failure", "", []string{"X-Log", "1", "Cache-Control", "no-cache"}, fails, "no such tangerine", Miss},
	} {
		u.handle = c.handle
		r.post(t, "chat/completions", ask("bodies", c.more), c.headers...)
		r.settled(t)
		run := <-r.runs
		if run.Cache != c.how || (run.Bodies != nil) != (c.answer != "") {
			t.Errorf("%s: %+v", c.name, run)
			continue
		}
		if b := run.Bodies; b != nil && (string(b.Request) != ask("bodies", c.more) || !strings.Contains(string(b.Answer), c.answer) || b.Cut) {
			t.Errorf("%s: %s\n%s", c.name, b.Request, b.Answer)
		}
	}
	u.handle = nil
	r.post(t, "chat/completions", ask(strings.Repeat("x", 2*MaxLoggedBytes), ""), HeaderLog, "true")
	r.settled(t)
	if b := (<-r.runs).Bodies; b == nil || len(b.Request) != MaxLoggedBytes || !b.Cut {
		t.Errorf("%+v", b)
	}
	if got := r.post(t, "chat/completions", ask("x", ""), HeaderLog, "maybe"); got.status != 400 || !strings.Contains(got.body, "invalid_log_bodies") {
		t.Errorf("%+v", got)
	}
}

// TestWhoJoinsHasBodiesOfHisOwn: what he asked, and what he was told.
func TestWhoJoinsHasBodiesOfHisOwn(t *testing.T) {
	r, u := single(t, nil)
	g := make(gate)
	u.word = g.word
	first := r.listen(t, ask("joined", streamed))
	g <- struct{}{}
	first.until(t, "id: 0")
	second := r.listen(t, ask("joined", `,"user":"u"`+streamed), HeaderLog, "true")
	second.until(t, "id: 0")
	g.open()
	first.end(t)
	second.end(t)
	r.settled(t)
	for range 2 {
		run := <-r.runs
		if (run.Cache == Collapsed) != (run.Bodies != nil) {
			t.Errorf("%+v", run)
		}
		if b := run.Bodies; b != nil && (!strings.Contains(string(b.Request), `"user":"u"`) || !strings.Contains(string(b.Answer), whole)) {
			t.Errorf("%s\n%s", b.Request, b.Answer)
		}
	}
}
