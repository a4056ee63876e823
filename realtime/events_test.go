package realtime

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// message skips what is no message and returns the next one's id and data.
func (s *testStream) message() (id, data string) {
	s.t.Helper()
	for {
		e := s.event()
		if strings.HasPrefix(e, "event: ") {
			s.t.Fatalf("unexpected %q", e)
		}
		if i, d, ok := strings.Cut(e, "\ndata: "); ok {
			return strings.TrimPrefix(i, "id: "), strings.TrimSuffix(d, "\n")
		}
	}
}

// A reader that comes back, to any replica, gets every message once and in order; also what was published
// while it was away, and also if it had seen none yet.
func TestEventsResume(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	publish := func(n int) (last uint64) {
		return must(b.node.Publish(t.Context(), Message{Channel: "a/b:1", Data: fmt.Appendf(nil, `{"n":%d}`, n)}, Message{Channel: "other", Data: []byte("0")}))[1].Offset
	}
	expect := func(s *testStream, from, to int) (id string) {
		t.Helper()
		var data string
		for n := from; n < to; n++ {
			if id, data = s.message(); data != fmt.Sprintf(`{"n":%d}`, n) {
				t.Fatalf("message %d is %q", n, data)
			}
		}
		return id
	}
	first := publish(0)
	eventually(t, 20*time.Second, "both are there", func() bool {
		return a.node.hub.in[0].position().Offset == first && b.node.hub.in[0].position().Offset == first
	})
	path := "/events/" + url.PathEscape("a/b:1")
	s := openStream(t, "GET", a.url(path), "")
	s.status(http.StatusOK)
	if retry := s.event(); !strings.HasPrefix(retry, "retry: ") {
		t.Fatalf("%q", retry)
	}
	start, ok := strings.CutPrefix(s.event(), "id: ")
	if start = strings.TrimSpace(start); !ok || start == "" {
		t.Fatal("a stream must begin with its position")
	}
	publish(1)
	publish(2)
	id := expect(s, 1, 3)
	s.cancel()
	publish(3)
	s = openStream(t, "GET", b.url(path+"?since="+start), "", "Last-Event-ID", id)
	publish(4)
	expect(s, 3, 5)
	s = openStream(t, "GET", b.url(path+"?since="+start), "")
	expect(s, 1, 5)
	client := b.node.hub.all()[0]
	for range 2*pingInterval + pongTimeout { // keep-alives, which nobody can answer
		client.shard.beat(time.Now())
	}
	publish(5)
	expect(s, 5, 6)
}

// A position that cannot be recovered is never a silent gap.
func TestEventsReset(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), nil)
	m := must(r.node.Publish(t.Context(), message("a", 1)))
	eventually(t, 20*time.Second, "it arrived", func() bool { return r.node.hub.in[0].position().Offset == m[0].Offset })
	at := r.node.hub.in[0].position()
	for _, id := range []string{"nonsense", "x-1", eventID(at.Epoch, at.Offset+99), at.Epoch + "-"} {
		s := openStream(t, "GET", r.url("/events/a"), "", "Last-Event-ID", id)
		s.event() // retry
		want := fmt.Sprintf("event: reset\nid: %s\ndata: {\"position\":%q}\n", eventID(at.Epoch, at.Offset), eventID(at.Epoch, at.Offset))
		if got := s.event(); got != want {
			t.Errorf("%s: %q", id, got)
		}
		s.cancel()
	}
	s := openStream(t, "GET", r.url("/events/eph:a"), "", "Last-Event-ID", "x-1")
	s.event()
	if got := s.event(); got != "event: reset\ndata: {}\n" {
		t.Errorf("ephemeral: %q", got)
	}
	must(r.node.Publish(t.Context(), message("eph:a", 7)))
	if got := s.event(); got != "data: 7\n" {
		t.Errorf("ephemeral: %q", got)
	}
	// The log goes back under an open stream: it ends, and what comes back is told.
	s = openStream(t, "GET", r.url("/events/a"), "", "Last-Event-ID", eventID(at.Epoch, at.Offset))
	s.event()
	eventually(t, 20*time.Second, "it is subscribed", func() bool { return must(r.node.Channels(t.Context(), ""))["a"] == 1 })
	r.node.hub.in[0].lost(at.Offset - 1)
	if got := s.event(); !strings.HasPrefix(got, "event: end\n") || !strings.Contains(got, "2500") {
		t.Errorf("%q", got)
	}
	s.ended()
}

func TestEventsPermissions(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), func(c *Config) {
		c.AllowAnonymous = false
		c.Namespaces = must(ParseNamespaces(`{"namespaces":[{"name":"no","allow_subscribe_for_client":false}]}`))
	})
	joe := must(SignToken(testSecret, "joe", time.Hour))
	for _, c := range []struct {
		name, path, bearer string
		status             int
	}{
		{"no token", "/events/a", "", 401},
		{"a bad token", "/events/a", "x", 401},
		{"an expired token", "/events/a", must(SignToken(testSecret, "joe", -time.Hour)), 401},
		{"in the query", "/events/a?token=" + joe, "", 200},
		{"in the header", "/events/a", joe, 200},
		{"the user's", "/events/" + url.PathEscape("a#joe"), joe, 200},
		{"another user's", "/events/" + url.PathEscape("a#ann"), joe, 403},
		{"private", "/events/$a", joe, 403},
		{"not for clients", "/events/no:a", joe, 403},
		{"no name", "/events/" + url.PathEscape("\x01"), joe, 400},
		{"no position", "/events/a?since=x", joe, 400},
	} {
		var header []string
		if c.bearer != "" {
			header = []string{"Authorization", "Bearer " + c.bearer}
		}
		s := openStream(t, "GET", r.url(c.path), "", header...)
		if body := s.status(c.status); c.status != 200 && !strings.Contains(body, `"error":{"code":`) {
			t.Errorf("%s: %s", c.name, body)
		}
		s.cancel()
	}
}

// EventSource gives up for ever after an error, so it is not told one that goes by.
func TestEventsOverload(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), func(c *Config) { c.MaxConnections = 1 })
	openStream(t, "GET", r.url("/events/a"), "").status(200)
	openStream(t, "GET", r.url("/events/a"), "").status(503)
	s := openStream(t, "GET", r.url("/events/a"), "", "Accept", "text/event-stream")
	s.status(200)
	if e := s.event(); !strings.HasPrefix(e, "retry: ") {
		t.Errorf("%q", e)
	}
	if e := s.event(); !strings.HasPrefix(e, "event: end\ndata: {\"code\":106") {
		t.Errorf("%q", e)
	}
	s.ended()
}

func TestParseEventID(t *testing.T) {
	for id, want := range map[string]Position{"a-b-7": {7, "a-b"}, "e-0": {0, "e"}, "": {}, "-1": {}, "1": {}, "e--1": {0, "e-"}, "e-99999999999999999999": {}} {
		p, ok := parseEventID(id)
		if id == "e--1" {
			want, ok = p, ok || p.Offset == 1
		}
		if ok != (want != Position{}) || ok && p != want {
			t.Errorf("%q: %v, %v", id, p, ok)
		}
	}
}
