package realtime

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"forgewire/db/dbtest"
)

// hookedReplica is a replica with the streams' routes, whose hooks are the backend's.
func hookedReplica(t testing.TB, b *backend, url, options, namespaces string, names ...string) *testReplica {
	t.Helper()
	return newTestReplica(t, url, func(c *Config) {
		c.Hooks = hooksTo(t, b, options, names...)
		c.Namespaces = must(ParseNamespaces(namespaces))
	})
}

const guarded = `{"namespaces":[
	{"name":"chat","subscribe_proxy":true,"presence":true},
	{"name":"shut","subscribe_proxy":true,"allow_subscribe_for_client":false},
	{"name":"users","subscribe_proxy":true,"publish_proxy":true,"allow_subscribe_for_anonymous":false,"allow_publish_for_anonymous":false},
	{"name":"judged","subscribe_proxy":true,"publish_proxy":true,"authorize":true,"allow_subscribe_for_client":false}]}`

// The subscribe hook is one guard of several: it opens no "$" and no other user's "#" channel, no token for
// another channel passes it, and the database must agree beside it.
func TestSubscribeHookIsOneGuard(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	url := dbtest.New(t)
	if _, err := dial(t, url).Exec(t.Context(), `CREATE OR REPLACE FUNCTION forgewire.authorize(user_id text, channel text, action text) RETURNS interval
		LANGUAGE sql AS $$ SELECT CASE WHEN channel IN ('judged:yes', '$judged:yes') THEN interval '1 minute' END $$`); err != nil {
		t.Fatal(err)
	}
	_, address := startNode(t, url, guarded, func(c *Config) {
		c.AllowAnonymous = true
		c.Hooks = hooksTo(t, b, "", "subscribe", "publish")
	})
	token := func(channel string) string { return hs(joe("channel", channel)) }
	const yes, no = `{}`, `{"error":{"code":1002,"message":"no"}}`
	for _, c := range []struct {
		name, user, hook, channel, token string
		code                             int
		asked                            bool
	}{
		{"the hook agrees", "joe", yes, "chat:1", "", 0, true},
		{"the hook refuses", "joe", no, "chat:1", "", 1002, true},
		{"the hook opens what is closed", "joe", yes, "shut:1", "", 0, true},
		{"a token needs no hook", "joe", no, "chat:1", token("chat:1"), 0, false},
		{"a token for another channel", "joe", yes, "chat:1", token("chat:2"), 103, false},
		{"a connection's token", "joe", yes, "chat:1", hs(joe()), 103, false},
		{"no token for a token's channel", "joe", yes, "$chat:1", "", 103, false},
		{"a token for it", "joe", no, "$chat:1", token("$chat:1"), 0, false},
		{"another user's", "joe", yes, "chat:1#ann", "", 103, false},
		{"the user's own", "joe", yes, "chat:1#joe", "", 0, true},
		{"the user's own, and the hook refuses", "joe", no, "chat:1#joe,ann", "", 1002, true},
		{"nobody's", "", yes, "chat:1#", "", 103, false},
		{"nobody, where that is allowed", "", yes, "chat:1", "", 0, true},
		{"nobody, where it is not", "", yes, "users:1", "", 103, false},
		{"both agree", "joe", yes, "judged:yes", "", 0, true},
		{"the database refuses", "joe", yes, "judged:no", "", 103, true},
		{"the hook refuses what the database allows", "joe", no, "judged:yes", "", 1002, true},
		{"both agree on a token's channel", "joe", yes, "$judged:yes", "", 0, true},
		{"the database alone does not", "joe", no, "$judged:yes", "", 1002, true},
	} {
		b.answer("/subscribe", c.hook)
		w := dialWire(t, address)
		if c.user == "" {
			w.wantError(`"connect":{}`, 0)
		} else {
			w.wantError(fmt.Sprintf(`"connect":{"token":%q}`, hs(joe())), 0)
		}
		before := b.count("/subscribe")
		if got := w.ask(subscribeTo(c.channel, c.token)); c.code == 0 && got.Error != nil || c.code != 0 && (got.Error == nil || got.Error.Code != c.code) {
			t.Errorf("%s: %+v, want %d", c.name, got.Error, c.code)
		}
		if asked := b.count("/subscribe") != before; asked != c.asked {
			t.Errorf("%s: the hook was asked: %v", c.name, asked)
		}
		if c.code != 0 { // who may not follow may not look either
			w.wantError(`"history":{"channel":"`+c.channel+`"}`, 103)
			if strings.HasPrefix(c.channel, "chat:") {
				w.wantError(`"presence":{"channel":"`+c.channel+`"}`, 103)
			}
		}
	}
	for _, c := range []struct {
		name, user, channel string
		code                int
	}{
		{"both agree", "joe", "judged:yes", 0}, {"the database refuses", "joe", "judged:no", 103},
		{"the hook alone", "joe", "users:1", 0}, {"nobody", "", "users:1", 103}, {"no guard", "joe", "chat:1", 103},
	} {
		w := dialWire(t, address)
		if c.user == "" {
			w.wantError(`"connect":{}`, 0)
		} else {
			w.wantError(fmt.Sprintf(`"connect":{"token":%q}`, hs(joe())), 0)
		}
		t.Log("publish:", c.name)
		w.wantError(`"publish":{"channel":"`+c.channel+`","data":1}`, c.code)
	}
}

// A hook that hangs or fails allows nothing, and says that the same may succeed later.
func TestHookThatFailsAllowsNothing(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	n, address := startNode(t, dbtest.New(t), guarded[:strings.LastIndex(guarded, ",\n")]+"]}", func(c *Config) {
		c.Hooks = hooksTo(t, b, `,"timeout":"200ms"`, "connect", "subscribe", "publish")
	})
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	fails := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	for name, h := range map[string]http.HandlerFunc{"hangs": hangs, "fails": fails} {
		w := dialWire(t, address)
		b.handle("/connect", h)
		for range 2 { // again and again
			if r := w.wantError(`"connect":{}`, 100); !r.Error.Temporary {
				t.Errorf("%s: connect: not temporary", name)
			}
		}
		b.answer("/connect", `{"result":{"user":"joe"}}`)
		w.wantError(`"connect":{}`, 0)
		b.handle("/subscribe", h)
		b.handle("/publish", h)
		if r := w.wantError(subscribeTo("chat:1", ""), 100); !r.Error.Temporary {
			t.Errorf("%s: subscribe: not temporary", name)
		}
		if r := w.wantError(`"publish":{"channel":"users:1","data":1}`, 100); !r.Error.Temporary {
			t.Errorf("%s: publish: not temporary", name)
		}
		w.wantError(`"history":{"channel":"chat:1"}`, 103)
		if s := n.hub.sum(); s.subscriptions != 0 {
			t.Errorf("%s: %d subscriptions", name, s.subscriptions)
		}
	}
	if m := must(n.History(t.Context(), "users:1", HistoryFilter{Limit: -1})); len(m.Messages) != 0 {
		t.Errorf("%d messages were published", len(m.Messages))
	}
}

// Streams go the same way: the connect hook sees the headers of the request that opens one.
func TestHooksOfStreams(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	b.answer("/connect", `{"result":{"user":"joe","subs":{"chat:9":{"data":{"s":1}}}}}`)
	r := hookedReplica(t, b, dbtest.New(t), `,"http_headers":["Cookie"]`, `{"namespaces":[{"name":"chat","subscribe_proxy":true}]}`, "connect", "subscribe", "rpc")
	b.answer("/rpc", `{"result":{"data":{"sum":3}}}`)
	for path, transport := range map[string]string{"/connection/sse": "sse", "/connection/http_stream": "http_stream"} {
		s := openStream(t, "POST", r.url(path), `{"id":1,"connect":{}}`, "Cookie", "session=1")
		s.status(http.StatusOK)
		connected := s.reply()
		if connected.Connect == nil {
			t.Fatalf("%s: %+v", path, connected)
		}
		body, header := b.last("/connect")
		if !strings.Contains(body, `"transport":"`+transport+`","protocol":"json"`) || header.Get("Cookie") != "session=1" {
			t.Errorf("%s: %s, %v", path, body, header)
		}
		request, _ := json.Marshal(map[string]string{"node": connected.Connect.Node, "session": connected.Connect.Session, "data": `{"id":2,"rpc":{"method":"sum"}}`})
		openStream(t, "POST", r.url("/emulation"), string(request)).status(http.StatusNoContent)
		if got := s.reply(); got.ID != 2 || got.Error != nil {
			t.Errorf("%s: %+v", path, got)
		}
		if body, header = b.last("/rpc"); !strings.Contains(body, `"user":"joe"`) || header.Get("Cookie") != "session=1" {
			t.Errorf("%s: %s, %v", path, body, header)
		}
		b.answer("/connect", `{"disconnect":{"code":4501,"reason":"go away"}}`)
		s = openStream(t, "POST", r.url(path), `{"id":1,"connect":{}}`)
		if got := s.reply(); got.Push == nil || got.Push.Disconnect == nil || got.Push.Disconnect.Code != 4501 {
			t.Errorf("%s: %+v", path, got)
		}
		s.ended()
		b.answer("/connect", `{"result":{"user":"joe","subs":{"chat:9":{"data":{"s":1}}}}}`)
	}

	// A stream of plain events brings its one channel, not those that the hook would subscribe a client to.
	events := func(header ...string) *testStream {
		return openStream(t, "GET", r.url("/events/chat:1"), "", append(header, "Cookie", "session=2")...)
	}
	s := events()
	s.status(http.StatusOK)
	if _, header := b.last("/connect"); header.Get("Cookie") != "session=2" {
		t.Errorf("%v", header)
	}
	if body, _ := b.last("/subscribe"); !strings.Contains(body, `"user":"joe","channel":"chat:1"`) || !strings.Contains(body, `"transport":"sse"`) {
		t.Errorf("%s", body)
	}
	must(r.node.Publish(t.Context(), Message{Channel: "chat:9", Data: []byte("9")}, Message{Channel: "chat:1", Data: []byte("1")}))
	if s.event(); !strings.HasPrefix(s.event(), "id: ") {
		t.Error("a stream must begin with its position")
	}
	if _, data := s.message(); data != "1" {
		t.Errorf("%s", data)
	}
	for reply, status := range map[string]int{
		`{"error":{"code":1002,"message":"no"}}`:                     http.StatusForbidden,
		`{"error":{"code":1003,"message":"later","temporary":true}}`: http.StatusServiceUnavailable,
		`{"disconnect":{"code":4502,"reason":"out"}}`:                http.StatusForbidden,
		`{"disconnect":{"code":3400,"reason":"out for a while"}}`:    http.StatusServiceUnavailable,
		`not JSON`: http.StatusServiceUnavailable,
		fmt.Sprintf(`{"result":{"expire_at":%d}}`, time.Now().Unix()-1): http.StatusUnauthorized,
	} {
		b.answer("/subscribe", reply)
		events().status(status)
	}
	// A position that the hook's word makes worthless is no silent gap.
	b.answer("/subscribe", `{"result":{"override":{"force_recovery":{"value":false}}}}`)
	s = events("Last-Event-ID", r.node.Epoch("")+"-1")
	s.status(http.StatusOK)
	if s.event(); !strings.HasPrefix(s.event(), "event: reset\n") {
		t.Error("not told that something may be missing")
	}
	b.answer("/subscribe", "not JSON")
	s = events("Accept", "text/event-stream") // a browser would not come back after an error
	s.status(http.StatusOK)
	if s.event(); !strings.HasPrefix(s.event(), "event: end\n") {
		t.Error("not told to come back")
	}
}

// A replica that stops does not wait for a hook that a stream's first command waits for.
func TestStopDuringConnectHook(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	b.handle("/connect", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := newTestReplica(t, dbtest.New(t), func(c *Config) {
		c.ShutdownTimeout = 400 * time.Millisecond
		c.Hooks = hooksTo(t, b, `,"timeout":"30s"`, "connect")
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url("/connection/http_stream"), strings.NewReader(`{"id":1,"connect":{}}`))
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(t, 5*time.Second, "the hook is asked", func() bool { return b.count("/connect") == 1 })
	start := time.Now()
	r.stop()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("stopping took %v", d)
	}
	<-ended
}

// Clients of the binary form get what hooks answer in theirs, and hooks see JSON.
func TestHooksInProtobuf(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	b.answer("/connect", `{"result":{"user":"joe","data":{"hi":1},"subs":{"open:1":{"data":{"s":1}}}}}`)
	b.answer("/rpc", `{"result":{"b64data":"WzFd"}}`)
	n, _ := startNode(t, dbtest.New(t), "", func(c *Config) { c.Hooks = hooksTo(t, b, "", "connect", "rpc") })
	out := &recorder{}
	c := newClient(n, out, streamProtobuf)
	c.shard.add(c)
	defer c.shard.remove(c)
	say := func(cmd *protocol.Command) *protocol.Reply {
		t.Helper()
		out.sent = nil
		if d := c.handleCommands(t.Context(), must(protocol.NewProtobufCommandEncoder().Encode(cmd))); d != nil {
			t.Fatal(d)
		}
		if len(out.sent) != 1 {
			t.Fatalf("%q", out.sent)
		}
		body := []byte(out.sent[0])
		size, k := binary.Uvarint(body)
		var r protocol.Reply
		if err := r.UnmarshalCF(body[k : k+int(size)]); err != nil {
			t.Fatal(err)
		}
		return &r
	}
	r := say(&protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{Data: protocol.Raw(`{"a":1}`)}})
	if r.Connect == nil || string(r.Connect.Data) != `{"hi":1}` || string(r.Connect.Subs["open:1"].GetData()) != `{"s":1}` {
		t.Errorf("%v", r)
	}
	if body, _ := b.last("/connect"); !strings.Contains(body, `"transport":"http_stream","protocol":"protobuf","encoding":"json","data":{"a":1}`) {
		t.Errorf("%s", body)
	}
	if r = say(&protocol.Command{Id: 2, Rpc: &protocol.RPCRequest{Method: "m", Data: protocol.Raw("\x00\x01")}}); r.Error.GetCode() != ErrBadRequest.Code {
		t.Errorf("what is not JSON: %v", r)
	}
	if r = say(&protocol.Command{Id: 3, Rpc: &protocol.RPCRequest{Method: "m"}}); string(r.Rpc.GetData()) != "[1]" {
		t.Errorf("%v", r)
	}
}

// A hook's word on options counts for its subscription alone; what cannot be done is not passed over.
func TestHookOverrides(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	_, address := startNode(t, dbtest.New(t), `{"namespaces":[
		{"name":"chat","subscribe_proxy":true,"presence":true,"join_leave":true},
		{"name":"plain","subscribe_proxy":true,"recovery":false}]}`, func(c *Config) {
		c.AllowAnonymous = true
		c.Hooks = hooksTo(t, b, "", "subscribe")
	})
	override := func(text string) { b.answer("/subscribe", `{"result":{"override":{`+text+`}}}`) }
	subscribe := func(channel, text string, code int) string {
		t.Helper()
		override(text)
		k := talk(t, address, nil)
		k.ask(`{"id":1,"connect":{}}`)
		got := k.ask(`{"id":2,"subscribe":{"channel":"` + channel + `"}}`)
		if code != 0 && !strings.Contains(got, fmt.Sprintf(`"code":%d`, code)) || code == 0 && strings.Contains(got, `"error"`) {
			t.Errorf("%s with %s: %s", channel, text, got)
		}
		return got
	}
	subscribe("chat:1", `"join_leave":{"value":false}`, 100)
	subscribe("plain:1", `"presence":{"value":true}`, 100)
	if got := subscribe("plain:1", `"force_recovery":{"value":true}`, 0); !strings.Contains(got, `"recoverable":true`) {
		t.Errorf("%s", got)
	}
	if got := subscribe("plain:1", `"force_positioning":{"value":true}`, 0); strings.Contains(got, `"recoverable":true`) || !strings.Contains(got, `"positioned":true`) {
		t.Errorf("%s", got)
	}
	subscribe("chat:2", `"presence":{"value":false}`, 0) // it stays, unseen
	override("")
	k := talk(t, address, nil)
	k.ask(`{"id":1,"connect":{}}`)
	k.ask(`{"id":2,"subscribe":{"channel":"chat:2"}}`)
	var r struct {
		PresenceStats struct {
			Clients int `json:"num_clients"`
		} `json:"presence_stats"`
	}
	if err := json.Unmarshal([]byte(k.ask(`{"id":3,"presence_stats":{"channel":"chat:2"}}`)), &r); err != nil || r.PresenceStats.Clients != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A message that a hook keeps out of the log leaves the deltas around it whole.
func TestDeltaAroundSkippedHistory(t *testing.T) {
	filler := strings.Repeat("the same all the time ", 20)
	message := func(offset uint64, n int) *burst {
		m := &Message{Offset: offset, Channel: "c", Data: []byte(fmt.Sprintf(`{"n":%d,"filler":%q}`, n, filler))}
		return &burst{channel: "c", messages: []*Message{m}, last: offset}
	}
	seen, fresh := &view{}, &view{} // one that has the skipped message, and one that came after it
	first, skipped, next, last := message(7, 1), message(0, 2), message(8, 3), message(9, 4)
	delta := func(b *burst, v *view) bool {
		t.Helper()
		all := replies(t, v.frame(b, wsJSON, 0))
		if len(all) != 1 || all[0].Push.GetPub() == nil {
			t.Fatalf("%v", all)
		}
		return all[0].Push.Pub.Delta
	}
	for i, c := range []struct {
		b    *burst
		v    *view
		want bool
	}{{first, seen, false}, {skipped, seen, false}, {next, fresh, false}, {next, seen, false}, {last, seen, true}, {last, fresh, true}} {
		if got := delta(c.b, c.v); got != c.want {
			t.Errorf("%d: a delta: %v, want %v", i, got, c.want)
		}
	}
}

// What the database must judge again is not renewed by the sub_refresh hook, and what ends meanwhile stays so.
func TestSubRefreshHookAndDatabase(t *testing.T) {
	now := time.Now()
	n := &Node{hooks: Hooks{subRefresh: &hook{}}}
	c := &client{node: n}
	for _, one := range []struct {
		name            string
		expires, judged time.Duration // 0 for never
		asking, want    bool
	}{
		{"never", 0, 0, false, false},
		{"expired", -1, 0, false, true},
		{"expired, and judged", -1, 1, false, true},
		{"to be judged", 1, -1, false, false},
		{"both", -2, -1, false, false},
		{"being asked", -1, 0, true, false},
	} {
		at := func(d time.Duration) time.Time {
			if d == 0 {
				return time.Time{}
			}
			return now.Add(d * time.Minute)
		}
		sub := &subscription{client: c, expires: at(one.expires), judged: at(one.judged), asking: one.asking}
		if got := sub.renewable(now); got != one.want {
			t.Errorf("%s: %v", one.name, got)
		}
	}
}
