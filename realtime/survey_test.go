package realtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// Channels and replicas are gathered from all, in answers of many parts; a replica without clients has nothing
// to tell but about itself.
func TestSurvey(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 3)
	want := map[string]int{}
	for i := range 3 {
		g := visit(tn.nodes[i%2], fmt.Sprint("u", i))
		for j := range 600 {
			c := fmt.Sprintf(`list:"<%d>"`, (i+1)*j)
			g.do(t, fmt.Sprintf(`"subscribe":{"channel":%q}`, c))
			want[c]++
		}
	}
	for _, n := range tn.nodes[:2] {
		eventually(t, 10*time.Second, "a lease", n.presence.leased.Load)
	}
	for i, n := range tn.nodes {
		if got := must(n.Channels(t.Context(), "")); !maps.Equal(got, want) {
			t.Errorf("replica %d: %d channels, want %d", i, len(got), len(want))
		}
	}
	if got := must(tn.nodes[2].Channels(t.Context(), `list:"<5?>"`)); len(got) != 10 {
		t.Errorf("by a pattern: %v", got)
	}
	infos := must(tn.nodes[0].Replicas(t.Context()))
	clients, subs := 0, 0
	for _, i := range infos {
		clients, subs = clients+i.Clients, subs+i.Subscriptions
	}
	if len(infos) != 2 || clients != 3 || subs != 1800 || infos[0].Name != "replica 0" {
		t.Errorf("replicas: %+v", infos)
	}
	if infos = must(tn.nodes[2].Replicas(t.Context())); len(infos) != 3 {
		t.Errorf("an idle replica sees %+v", infos)
	}
	var e *Error
	if _, err := tn.nodes[0].Channels(t.Context(), "[a"); !errors.As(err, &e) || e.Code != ErrBadRequest.Code {
		t.Errorf("a bad pattern: %v", err)
	}
}

// A dead replica is waited for only so long, and only until its lease ends.
func TestSurveyWithADeadReplica(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	visit(tn.nodes[1], "u").do(t, `"subscribe":{"channel":"c"}`)
	eventually(t, 10*time.Second, "a lease", tn.nodes[1].presence.leased.Load)
	must(tn.pool.Exec(t.Context(), "INSERT INTO forgewire.replicas VALUES ('dead', 'dead', clock_timestamp() + interval '1 minute')"))
	start := time.Now()
	if got := must(tn.nodes[0].Channels(t.Context(), "")); got["c"] != 1 {
		t.Errorf("channels: %v", got)
	}
	if took := time.Since(start); took < surveyTimeout {
		t.Errorf("it did not wait for a replica that may be alive: %v", took)
	}
	must(tn.pool.Exec(t.Context(), "UPDATE forgewire.replicas SET expires = clock_timestamp() WHERE id = 'dead'"))
	start = time.Now()
	if got := must(tn.nodes[0].Channels(t.Context(), "")); got["c"] != 1 || time.Since(start) > surveyTimeout {
		t.Errorf("after the lease ended: %v in %v", got, time.Since(start))
	}
}

// Answers nobody asked for, or from replicas that nobody awaits, change nothing; too many channels are an error.
func TestAnswersAreJudged(t *testing.T) {
	t.Parallel()
	all := newSurveys()
	all.answered(&surveyAnswer{ID: "unknown", From: "a", Last: true})
	s := &survey{awaited: map[string]string{"a": "", "b": ""}, channels: map[string]int{}, done: make(chan struct{})}
	all.open["q"] = s
	all.answered(&surveyAnswer{ID: "q", From: "stranger", Channels: map[string]int{"x": 1}, Last: true})
	all.answered(&surveyAnswer{ID: "q", From: "a", Channels: map[string]int{"x": 1}, Last: true})
	all.answered(&surveyAnswer{ID: "q", From: "a", Channels: map[string]int{"x": 1}, Last: true})
	if len(s.awaited) != 1 || s.channels["x"] != 1 {
		t.Errorf("%+v", s)
	}
	big := map[string]int{}
	for i := range maxSurveyChannels + 1 {
		big[fmt.Sprint(i)] = 1
	}
	all.answered(&surveyAnswer{ID: "q", From: "b", Channels: big, Last: true})
	if !s.tooMany || len(s.channels) > maxSurveyChannels {
		t.Errorf("%d channels were taken", len(s.channels))
	}
	<-s.done
}

// Every part of an answer fits into a notification, whatever the names.
func TestAnswerParts(t *testing.T) {
	t.Parallel()
	a := surveyAnswer{ID: strings.Repeat("i", 36), From: strings.Repeat("f", 36), Channels: map[string]int{}}
	for i := range 2000 {
		a.Channels[strings.Repeat([]string{`"`, "<", "a"}[i%3], 200)+fmt.Sprint(i)] = 1 << 40
	}
	n := 0
	for i, p := range a.split() {
		b := must(json.Marshal(control{Op: opAnswer, Answer: &p}))
		if n += len(p.Channels); len(b)+len(kindControl) > maxPayload || p.Part != i || p.Last != (n == 2000) {
			t.Fatalf("part %d (%d) of %d bytes", i, p.Part, len(b))
		}
	}
	if n != 2000 {
		t.Errorf("%d channels in the parts", n)
	}
}
