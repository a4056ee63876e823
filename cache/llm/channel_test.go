package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// copied runs an answer through a pump and a copier, each message twice, as after an append whose end nobody knew.
func copied(t testing.TB, e endpoint, limit int, events []event, object []byte) *tape {
	t.Helper()
	from := newTape("fw_x")
	from.begin(flightHead{Endpoint: e, Stream: object == nil})
	from.add(events...)
	if object != nil {
		from.setObject(object)
	}
	from.finish(flightEnd{Done: true})
	p := &pump{tape: from, attempt: 1, limit: limit}
	v, _ := from.look(0)
	messages, taken := p.encode(v, false)
	if taken != len(events) {
		t.Fatalf("%d of %d events", taken, len(events))
	}
	to := newTape("fw_x")
	c := &copier{tape: to}
	for _, m := range messages {
		if !json.Valid(m) || strings.ContainsAny(string(m), "\r\n") {
			t.Fatalf("%q", m)
		}
		for range 2 {
			if err := c.take(m); err != nil {
				t.Fatalf("%v: %s", err, m)
			}
		}
	}
	return to
}

func TestAnAnswerCrossesTheLogUnchanged(t *testing.T) {
	for _, e := range []endpoint{chat, responses} {
		events := []event{{data: []byte(`{"a":1.0, "b":"<\u00e9>"}`)}, {name: "response.created", data: []byte(`{"type":"response.created"}`)},
			{name: "x", data: []byte(`{"type":"y"}`)}, {data: []byte("hello\nworld")}, {data: []byte(`"text"`)}, {data: []byte(`{`)},
			{data: []byte(`{"type":"response.x"}`)}, {data: []byte(`{"big":"` + strings.Repeat("é\u0001", 3000) + `"}`)}, {data: []byte{}}}
		for _, limit := range []int{1024, 4096, 1 << 20} {
			v, _ := copied(t, e, limit, events, nil).look(0)
			if !reflect.DeepEqual(v.events, events) || v.end == nil || !v.end.Done {
				t.Errorf("%s, %d: %q", e, limit, v.events)
			}
			object := []byte("{\n  \"a\": \"" + strings.Repeat("é", 5000) + "\"\n}\r\n")
			if v, _ = copied(t, e, limit, nil, object).look(0); string(v.object) != string(object) {
				t.Errorf("%.100q", v.object)
			}
		}
	}
}

// The log takes only so much at once, which an answer may be more than: JSON in JSON grows by each of its quotes.
func TestALargeAnswerIsWrittenInParts(t *testing.T) {
	log := &measuringLog{memoryLog: newMemoryLog()}
	from := newTape("fw_x")
	object := []byte(`["` + strings.Repeat(`","`, 2<<20) + `"]`)
	from.whole(flightHead{Endpoint: chat}, object, flightEnd{Done: true})
	p := &pump{log: log, tape: from, lease: &lease{followed: make(chan struct{})}, attempt: 1, limit: 256 << 10}
	if err := p.write(t.Context(), from.now(0), false); err != nil {
		t.Fatal(err)
	}
	if log.most > 4<<20 {
		t.Errorf("%d bytes at once", log.most)
	}
	c := &copier{tape: newTape("fw_x")}
	for _, m := range log.channels[channelOf("fw_x")] {
		if err := c.take(m); err != nil {
			t.Fatal(err)
		}
	}
	if v := c.tape.now(0); v.end == nil || string(v.object) != string(object) {
		t.Errorf("%d bytes of %d", len(v.object), len(object))
	}
}

// measuringLog notes the most bytes of one append.
type measuringLog struct {
	*memoryLog
	most int
}

func (l *measuringLog) Append(ctx context.Context, channel string, messages ...[]byte) error {
	size := 0
	for _, m := range messages {
		size += len(m)
	}
	l.most = max(l.most, size)
	return l.memoryLog.Append(ctx, channel, messages...)
}

func TestAHoleIsNoticed(t *testing.T) {
	for _, m := range []string{`{"attempt":1,"take":0,"from":1,"events":[{}]}`, `{"attempt":1,"take":0,"from":0,"part":{"at":5,"text":"x"}}`, `{`} {
		c := &copier{tape: newTape("x")}
		if err := c.take([]byte(`{"attempt":1,"take":0,"head":{"endpoint":"chat/completions","stream":true}}`)); err != nil {
			t.Fatal(err)
		}
		if err := c.take([]byte(m)); err == nil {
			t.Errorf("%s was taken", m)
		}
	}
}

func TestALeaderThatWasReplacedIsNotHeard(t *testing.T) {
	c := &copier{tape: newTape("x")}
	for _, m := range []string{`{"attempt":1,"take":0,"head":{"endpoint":"chat/completions","stream":true}}`, `{"attempt":1,"take":0,"from":0,"events":[{"n":0}]}`,
		string(c.claim(2)), `{"attempt":1,"take":0,"from":1,"events":[{"old":1}]}`, `{"attempt":2,"take":0,"from":1,"events":[{"n":1}]}`,
		`{"attempt":1,"take":0,"end":{"done":true}}`} {
		if err := c.take([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	v, _ := c.tape.look(0)
	if len(v.events) != 2 || string(v.events[1].data) != `{"n":1}` || v.end != nil || v.take != 0 {
		t.Errorf("%+v", v)
	}
	if err := c.take([]byte(`{"attempt":2,"take":1,"head":{"endpoint":"chat/completions","stream":true}}`)); err != nil {
		t.Fatal(err)
	}
	if v, _ = c.tape.look(0); len(v.events) != 0 || v.take != 1 || v.head == nil {
		t.Errorf("%+v", v)
	}
}

func FuzzChannel(f *testing.F) {
	f.Add([]byte(`{"attempt":1,"take":0,"head":{"endpoint":"responses","stream":true}}`), []byte(`{"attempt":1,"take":0,"from":0,"events":[{"type":"a"},["n","d"],"t"]}`))
	f.Add([]byte(`{"attempt":1,"head":{}}`), []byte(`{"attempt":1,"from":0,"part":{"at":0,"text":"x","last":true}}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := &copier{tape: newTape("x")}
		_ = c.take(first)
		_ = c.take(second)
		v, _ := c.tape.look(0)
		if v.head != nil {
			copied(t, v.head.Endpoint, 1024, v.events, nil)
		}
	})
}

func TestUpstreamConfiguration(t *testing.T) {
	env := func(name string) string { return map[string]string{"K": "secret"}[name] }
	ups, err := ParseUpstreams(`{"upstreams":[{"name":"a","url":"https://a.example/v1/","key_env":"K","models":["gpt-*"],"timeout":"1m","prices":{"gpt-*":{"input":1,"output":2},"gpt-5":{"input":3}}},{"name":"b","url":"http://10.0.0.1:1/v1"}],"aliases":{"x":["a/gpt-5","b/meta/llama"]}}`, env)
	if err != nil {
		t.Fatal(err)
	}
	if r := ups.routes("gpt-4"); len(r) != 1 || r[0].upstream.Name != "a" || r[0].upstream.Key != "secret" {
		t.Errorf("%+v", r)
	}
	if r := ups.routes("meta/llama"); len(r) != 1 || r[0].upstream.Name != "b" {
		t.Errorf("%+v", r)
	}
	if r := ups.routes("x"); len(r) != 2 || r[1].model != "meta/llama" {
		t.Errorf("%+v", r)
	}
	if c := ups.List[0].cost("gpt-5", usage{2, 5}); c != 6 {
		t.Error(c)
	}
	for _, bad := range []string{``, `{}`, `{"upstreams":[]}`, `{"x":1}`, `/does/not/exist`, `{"upstreams":[{"name":"a","url":"ftp://x/v1"}]}`,
		`{"upstreams":[{"name":"","url":"https://x/v1"}]}`, `{"upstreams":[{"name":"a/b","url":"https://x/v1"}]}`, `{"upstreams":[{"name":"a","url":"https://u:secret@x/v1"}]}`,
		`{"upstreams":[{"name":"a","url":"https://x/v1","key":"secret","key_env":"K"}]}`, `{"upstreams":[{"name":"a","url":"https://x/v1","key_env":"MISSING"}]}`,
		`{"upstreams":[{"name":"a","url":"https://x/v1","key":"secret\nx"}]}`, `{"upstreams":[{"name":"a","url":"https://x/v1","timeout":"-1s"}]}`,
		`{"upstreams":[{"name":"a","url":"https://x/v1"},{"name":"a","url":"https://x/v1"}]}`, `{"upstreams":[{"name":"a","url":"https://x/v1"}],"aliases":{"x":["c/m"]}}`,
		`{"upstreams":[{"name":"a","url":"https://x/v1"}],"aliases":{"x":[]}}`, `{"upstreams":[{"name":"a","url":"https://x/v1","prices":{"m":{"input":-1}}}]}`} {
		if _, err := ParseUpstreams(bad, env); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func BenchmarkKey(b *testing.B) {
	body := []byte(ask(strings.Repeat("lorem ipsum ", 500), `,"temperature":0.7,"stream":true`))
	b.ReportAllocs()
	for b.Loop() {
		n, err := parseJSON(body)
		if err != nil {
			b.Fatal(err)
		}
		keyOf("t", "r", chat, n)
	}
}

// BenchmarkHit is a whole request over loopback that the cache answers; BenchmarkDirect is one to the upstream itself, and
// BenchmarkMiss one through Forgewire to it, with its election and its publication.
func BenchmarkHit(b *testing.B)  { benchmark(b, true) }
func BenchmarkMiss(b *testing.B) { benchmark(b, false) }
func BenchmarkDirect(b *testing.B) {
	r, u := single(b, nil)
	u.handle = answering(200, "application/json", answers[0].object)
	r.http.URL = u.URL
	for b.Loop() {
		r.do(context.Background(), b, "POST", "chat/completions", ask("x", ""))
	}
}

func benchmark(b *testing.B, hit bool) {
	r, u := single(b, func(c *Config) { c.Record = nil })
	u.handle = answering(200, "application/json", answers[0].object)
	for i := 0; b.Loop(); i++ {
		prompt := "x"
		if !hit {
			prompt = strings.Repeat("y", i%50) + string(rune('a'+i/50%26)) + string(rune('a'+i/1300%26)) + string(rune('a'+i/33800%26))
		}
		r.do(context.Background(), b, "POST", "chat/completions", ask(prompt, ""))
	}
}

// Each of two leaders that come after one that died begins anew, and the first of them dies before the log has anything of
// that: whoever has its beginning must not be given the end of the second's.
func TestNoTwoLeadersHaveATake(t *testing.T) {
	h := flightHead{Endpoint: chat, Stream: true}
	known := []string{`{"attempt":1,"take":0,"head":{"endpoint":"chat/completions","stream":true}}`, `{"attempt":1,"take":0,"from":0,"events":[{"n":0}]}`}
	var takes []int
	for attempt := 2; attempt <= 3; attempt++ {
		known = append(known, string((&copier{next: 1}).claim(attempt)))
		f := &flight{tape: newTape("fw_x"), req: &request{endpoint: chat}}
		c := &copier{tape: f.tape}
		for _, m := range known {
			if err := c.take([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		out := newRetake(f, attempt)
		out.begin(h)
		out.add(event{data: fmt.Appendf(nil, `{"other":%d}`, attempt)})
		p := &pump{tape: f.tape, attempt: attempt, limit: 1 << 10}
		v := f.now(0)
		p.take = v.take
		messages, _ := p.encode(v, false)
		for _, m := range messages {
			if err := c.take(m); err != nil {
				t.Fatal(err)
			}
		}
		if c.turn != v.take || f.now(0).take != v.take {
			t.Errorf("a reader has take %d of %d", c.turn, v.take)
		}
		takes = append(takes, v.take)
	}
	if takes[0] == 0 || takes[1] <= takes[0] {
		t.Errorf("%v", takes)
	}
}
