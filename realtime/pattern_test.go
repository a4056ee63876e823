package realtime

import (
	"strings"
	"testing"

	"forgewire/db/dbtest"
)

func TestPatternsOfChannels(t *testing.T) {
	n, err := ParseNamespaces(`{"namespaces": [
		{"name": "event", "pattern": "/users/:user/:event", "history_size": 1},
		{"name": "user", "pattern": "/users/:user", "history_size": 2},
		{"name": "inbox", "pattern": "/users/:user/inbox", "history_size": 3},
		{"name": "me", "pattern": "/:what/me/inbox", "history_size": 4},
		{"name": "chat", "history_size": 5}
	], "without_namespace": {"history_size": 9}}`)
	if err != nil {
		t.Fatal(err)
	}
	for channel, want := range map[string]string{
		"/users/7": "user", "/users/:user": "user", "$/users/7": "user", "/users/a:b": "user", "/users/7#7,8": "user",
		"/users/7/inbox": "inbox", "/users/7/typing": "event", "/users/me/inbox": "inbox", "/rooms/me/inbox": "me",
		"/users": "", "/users/": "", "/users//": "", "//7": "", "/users/7/": "", "/users/7/inbox/": "", "/users/7/inbox/old": "",
		"/Users/7": "", "/": "", "users/7": "", "/rooms/you/inbox": "", "/rooms/me/inbox/x": "",
		"user:7": "", "chat:/users/7": "chat", "/chat:1": "", "$chat:1": "chat", "chat": "",
	} {
		name, o := n.find(channel)
		if size := map[string]int{"event": 1, "user": 2, "inbox": 3, "me": 4, "chat": 5, "": 9}[want]; name != want || o.HistorySize != size || n.of(channel) != o {
			t.Errorf("%s belongs to %q, with %d, not to %q", channel, name, o.HistorySize, want)
		}
	}
	if n.authorize() {
		t.Error("the database decides on no channel here")
	}
}

func TestBadPatterns(t *testing.T) {
	for pattern, wrong := range map[string]string{
		"users/:user": "begins with a slash", "/users/*": "begins with a slash", "/users/$x": "begins with a slash", "/users/#x": "begins with a slash",
		"/": "each segment", "/users/": "each segment", "/users//x": "each segment", "/users/:": "each segment", "/users/a:b": "each segment", "/users/:a:b": "each segment",
		"/:a/x/:a": "two segments have the name a", "/" + strings.Repeat("x", MaxChannelLength): "begins with a slash", "/ünicode": "begins with a slash",
	} {
		if _, err := ParseNamespaces("{\"namespaces\":[\n{\"name\":\"a\",\"pattern\":\"" + pattern + "\"}]}"); err == nil || !strings.Contains(err.Error(), `line 2: "a": `) || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for text, wrong := range map[string]string{
		`{"name":"a","pattern":"/x/:y"},{"name":"b","pattern":"/x/:z"}`: `"b" matches the same channels as "a"`,
		`{"name":"a","pattern":"/x"},{"name":"a"}`:                      "listed twice",
		`{"name":"a"},{"name":"a","pattern":"/x"}`:                      "listed twice",
		`{"name":"/a"}`: "not a name",
		`{"name":"a","pattern":"/x","ephemeral":true,"delta":true}`: "no deltas",
		`{"pattern":"/x"}`: "not a name",
	} {
		if _, err := ParseNamespaces(`{"namespaces":[` + text + `]}`); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", text, err)
		}
	}
	n := must(ParseNamespaces(`{"namespaces":[{"name":"a","pattern":"/x/:y","authorize":true}]}`))
	if !n.authorize() || n.of("a:1").Authorize {
		t.Error("the database decides on the pattern's channels, and on no others")
	}
}

// What a pattern closes is closed over the protocol.
func TestPatternDecides(t *testing.T) {
	_, url := startNode(t, dbtest.New(t), `{"namespaces":[
		{"name":"room","pattern":"/rooms/:room","allow_publish_for_client":true},
		{"name":"staff","pattern":"/rooms/staff","allow_subscribe_for_client":false}]}`, nil)
	w := joined(t, url, hs(joe()))
	w.wantError(subscribeTo("/rooms/staff", ""), 103)
	w.wantError(subscribeTo("$/rooms/7", ""), 103)
	w.wantError(`"publish":{"channel":"/rooms/7/x","data":{}}`, 103)
	if r := w.ask(subscribeTo("/rooms/7", "")); r.Error != nil {
		t.Fatalf("%+v", r.Error)
	}
	if r := w.ask(`"publish":{"channel":"/rooms/7","data":{}}`); r.Error != nil {
		t.Fatalf("%+v", r.Error)
	}
}
