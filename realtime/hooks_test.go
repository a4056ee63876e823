package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/coder/websocket"

	"forgewire/db"
	"forgewire/db/dbtest"
)

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startHooked is startNode for tests that stop the replica themselves.
func startHooked(t testing.TB, url string, change func(*Config)) (n *Node, address string, stop func()) {
	t.Helper()
	pool := must(db.NewPool(t.Context(), db.PoolConfig{URL: url}))
	cfg := Config{Pool: pool, ListenURL: url, Logger: quietLogger(), Tokens: TokenConfig{Secret: testSecret}, Namespaces: NewNamespaces(),
		MaxConnections: 1000, MaxPublicationBytes: 1 << 20, RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: 2 * time.Second}
	change(&cfg)
	r := runReplica(t, cfg, webSocketOnly)
	return r.node, r.webSocketURL(), r.stop
}

// handedOn reports whether every shard of a replica has everything up to offset.
func handedOn(n *Node, offset uint64) bool { return n.hub.in[0].position().Offset >= offset }

// talker is a client that says and hears what the test wants.
type talker struct {
	t  testing.TB
	ws *websocket.Conn
	in []string // replies that were read and not asked for yet
}

func talk(t testing.TB, address string, header http.Header) *talker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // websocket closes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &talker{t: t, ws: ws}
}

func (k *talker) say(command string) {
	k.t.Helper()
	if err := k.ws.Write(k.t.Context(), websocket.MessageText, []byte(command)); err != nil {
		k.t.Fatal(err)
	}
}

// hear returns the next reply or push, or the code and reason of the connection's end.
func (k *talker) hear() string {
	k.t.Helper()
	for len(k.in) == 0 {
		ctx, cancel := context.WithTimeout(k.t.Context(), 15*time.Second)
		_, b, err := k.ws.Read(ctx)
		cancel()
		if err != nil {
			var end websocket.CloseError
			if errors.As(err, &end) {
				return fmt.Sprintf("%d %s", end.Code, end.Reason)
			}
			k.t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			if line == "{}" {
				k.say("{}")
			} else {
				k.in = append(k.in, line)
			}
		}
	}
	first := k.in[0]
	k.in = k.in[1:]
	return first
}

// ask sends a command and returns its reply.
func (k *talker) ask(command string) string {
	k.t.Helper()
	k.say(command)
	return k.hear()
}

// backend plays the team's: it answers what the test says, and remembers what it was asked.
type backend struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by path
	asked   map[string][]string         // bodies
	headers map[string][]http.Header
}

func newBackend(t testing.TB) *backend {
	b := &backend{answers: map[string]http.HandlerFunc{}, asked: map[string][]string{}, headers: map[string][]http.Header{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.asked[r.URL.Path] = append(b.asked[r.URL.Path], r.Method+" "+string(body))
	b.headers[r.URL.Path] = append(b.headers[r.URL.Path], r.Header.Clone())
	answer := b.answers[r.URL.Path]
	b.mu.Unlock()
	if answer == nil {
		_, _ = w.Write([]byte("{}"))
		return
	}
	answer(w, r)
}

func (b *backend) answer(path, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[path] = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func (b *backend) handle(path string, h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[path] = h
}

func (b *backend) count(path string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.asked[path])
}

func (b *backend) last(path string) (body string, header http.Header) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.asked[path])
	if n == 0 {
		return "", nil
	}
	return b.asked[path][n-1], b.headers[path][n-1]
}

// hooksTo makes a configuration whose hooks are the backend's paths of the same names.
func hooksTo(t testing.TB, b *backend, options string, names ...string) *Hooks {
	t.Helper()
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf(`%q:{"endpoint":%q%s}`, name, b.URL+"/"+name, options))
	}
	return must(ParseHooks("{" + strings.Join(parts, ",") + "}"))
}

func sameJSON(t testing.TB, what, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Errorf("%s: %q: %v", what, got, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestParseHooks(t *testing.T) {
	for _, c := range []struct{ name, text, wrong string }{
		{"nothing", "", ""},
		{"one", `{"rpc":{"endpoint":"https://app/rpc","timeout":"30s","http_headers":["cookie","X-Request-Id"],"static_headers":{"X-Key":"secret"},"include_connection_meta":true}}`, ""},
		{"an unknown hook", "{\n\"conect\":{}}", "conect"},
		{"an unknown option", "{\n\"connect\":{\"endpoint\":\"http://a\",\n\"retries\":3}}", "retries"},
		{"its line", "{\n\n\"connect\":{\"endpoint\":3}}", "line 3"},
		{"no endpoint", "{\n\"rpc\":{}}", `line 2: "rpc": endpoint is missing`},
		{"another scheme", `{"rpc":{"endpoint":"file:///etc/passwd"}}`, "not an http:// or https://"},
		{"no host", `{"rpc":{"endpoint":"http:///rpc"}}`, "not an http:// or https://"},
		{"too patient", `{"rpc":{"endpoint":"http://a","timeout":"31s"}}`, "at most 30s"},
		{"no time", `{"rpc":{"endpoint":"http://a","timeout":"0s"}}`, "more than 0"},
		{"a header of the connection", `{"rpc":{"endpoint":"http://a","http_headers":["sec-websocket-key"]}}`, "cannot be forwarded"},
		{"not a header", `{"rpc":{"endpoint":"http://a","http_headers":["a b"]}}`, "not the name of a header"},
		{"a line break", `{"rpc":{"endpoint":"http://a","static_headers":{"X-Key":"a\nb"}}}`, "control character"},
		{"the length", `{"rpc":{"endpoint":"http://a","static_headers":{"Content-Length":"1"}}}`, "cannot be forwarded"},
		{"no file", "/does/not/exist/hunter2", "neither JSON nor"},
		{"rest", `{} {}`, "follows"},
	} {
		_, err := ParseHooks(c.text)
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: quoted: %v", c.name, err)
		}
	}
	n := must(ParseNamespaces(`{"namespaces":[{"name":"chat","subscribe_proxy":true}]}`))
	if err := (&Hooks{}).check(n); err == nil || !strings.Contains(err.Error(), "subscribe hook") {
		t.Errorf("a namespace without its hook: %v", err)
	}
}

const hookNamespaces = `{"namespaces":[{"name":"chat","subscribe_proxy":true,"publish_proxy":true},{"name":"open","allow_publish_for_client":true}]}`

// Each hook is asked what Centrifugo's proxies are asked, and is sent the headers that are listed and no other.
func TestHookRequests(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	b.answer("/connect", `{"result":{"user":"joe","meta":{"tenant":7}}}`)
	options := `,"http_headers":["cookie","X-Trace","X-Key"],"static_headers":{"X-Key":"s3cret"},"include_connection_meta":true`
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.Hooks = hooksTo(t, b, options, "connect", "subscribe", "publish", "rpc")
		c.Namespaces = must(ParseNamespaces(hookNamespaces))
	})
	k := talk(t, address, http.Header{"Cookie": {"session=1"}, "Authorization": {"Bearer x"}, "X-Trace": {"a", "b"}, "X-Key": {"mine"}, "User-Agent": {"spy"}})
	k.ask(`{"id":1,"connect":{"data":{"a":1},"name":"js","version":"5.0"}}`)
	id := n.hub.all()[0].id
	k.ask(`{"id":2,"subscribe":{"channel":"chat:1","data":{"b":2}}}`)
	k.ask(`{"id":3,"publish":{"channel":"chat:1","data":{"c":3}}}`)
	k.hear()
	k.ask(`{"id":4,"rpc":{"method":"sum","data":[1,2]}}`)
	base := `"client":"` + id + `","transport":"websocket","protocol":"json","encoding":"json"`
	for path, want := range map[string]string{
		"/connect":   `{` + base + `,"data":{"a":1},"name":"js","version":"5.0"}`,
		"/subscribe": `{` + base + `,"user":"joe","channel":"chat:1","data":{"b":2},"meta":{"tenant":7}}`,
		"/publish":   `{` + base + `,"user":"joe","channel":"chat:1","data":{"c":3},"meta":{"tenant":7}}`,
		"/rpc":       `{` + base + `,"user":"joe","method":"sum","data":[1,2],"meta":{"tenant":7}}`,
	} {
		got, header := b.last(path)
		method, body, _ := strings.Cut(got, " ")
		if method != http.MethodPost {
			t.Errorf("%s: %s", path, method)
		}
		sameJSON(t, path, body, want)
		header.Del("Content-Length")
		header.Del("User-Agent") // Go's own
		wantHeader := http.Header{"Content-Type": {"application/json"}, "Cookie": {"session=1"}, "X-Trace": {"a", "b"}, "X-Key": {"s3cret"}}
		if !reflect.DeepEqual(header, wantHeader) {
			t.Errorf("%s: %v", path, header)
		}
	}
	if _, header := b.last("/rpc"); strings.Contains(fmt.Sprint(header), "spy") {
		t.Error("the client's User-Agent was forwarded")
	}
}

// A handshake's headers stay in memory only as long as some hook may be sent them.
func TestHeadersAreLetGo(t *testing.T) {
	h := must(ParseHooks(`{"connect":{"endpoint":"http://a","http_headers":["Cookie","X-Trace"]},"rpc":{"endpoint":"http://a","http_headers":["X-Trace"]}}`))
	from := http.Header{"Cookie": {"c"}, "X-Trace": {"t"}, "Accept": {"a"}}
	kept := h.keep(from, false)
	if want := (http.Header{"Cookie": {"c"}, "X-Trace": {"t"}}); !reflect.DeepEqual(kept, want) {
		t.Errorf("at the handshake: %v", kept)
	}
	if kept = h.keep(kept, true); !reflect.DeepEqual(kept, http.Header{"X-Trace": {"t"}}) {
		t.Errorf("when connected: %v", kept)
	}
	if kept = (&Hooks{}).keep(from, false); kept != nil {
		t.Errorf("without hooks: %v", kept)
	}
}

// Every field of a hook's reply has its effect.
func TestHookReplies(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.Hooks = hooksTo(t, b, "", "connect", "subscribe", "publish", "rpc")
		c.Namespaces = must(ParseNamespaces(hookNamespaces))
	})
	soon := time.Now().Add(time.Hour).Unix()
	for _, c := range []struct{ name, path, reply, command, want string }{
		{"connect nobody", "/connect", `{}`, `{"id":1,"connect":{}}`, `3500 invalid token: a token is required`},
		{"connect an error", "/connect", `{"error":{"code":1001,"message":"no","temporary":true}}`, `{"id":1,"connect":{}}`, `{"id":1,"error":{"code":1001,"message":"no","temporary":true}}`},
		{"connect the end", "/connect", `{"disconnect":{"code":4501,"reason":"go away"}}`, `{"id":1,"connect":{}}`, `4501 go away`},
		{"connect over", "/connect", `{"result":{"user":"joe","expire_at":1}}`, `{"id":1,"connect":{}}`, `3005 connection expired`},
		{"connect in base64 that is none", "/connect", `{"result":{"user":"joe","b64data":"!"}}`, `{"id":1,"connect":{}}`, `{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}`},
		{"connect a user that the database cannot store", "/connect", `{"result":{"user":"a\u0000b"}}`, `{"id":1,"connect":{}}`, `"code":100`},
		{"connect a user that is too long", "/connect", `{"result":{"user":"` + strings.Repeat("u", maxUser+1) + `"}}`, `{"id":1,"connect":{}}`, `"code":100`},
		{"connect info that is too large", "/connect", `{"result":{"user":"joe","info":"` + strings.Repeat("i", MaxInfoBytes) + `"}}`, `{"id":1,"connect":{}}`, `"code":100`},
		{"connect a subscription that is over", "/connect", `{"result":{"user":"joe","subs":{"a":{"expire_at":1}}}}`, `{"id":1,"connect":{}}`, `"code":100`},
		{"connect a filter that we cannot apply", "/connect", `{"result":{"user":"joe","subs":{"a":{"server_tags_filter":{"op":"eq"}}}}}`, `{"id":1,"connect":{}}`, `{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}`},
		{"subscribe", "/subscribe", `{}`, `{"id":2,"subscribe":{"channel":"chat:1"}}`, `"epoch"`},
		{"subscribe an error", "/subscribe", `{"error":{"code":1002,"message":"not you"}}`, `{"id":2,"subscribe":{"channel":"chat:1"}}`, `{"id":2,"error":{"code":1002,"message":"not you"}}`},
		{"subscribe the end", "/subscribe", `{"disconnect":{"code":4502,"reason":"out"}}`, `{"id":2,"subscribe":{"channel":"chat:1"}}`, `4502 out`},
		{"subscribe over", "/subscribe", `{"result":{"expire_at":1}}`, `{"id":2,"subscribe":{"channel":"chat:1"}}`, `"code":109`},
		{"subscribe with data", "/subscribe", fmt.Sprintf(`{"result":{"b64data":"eyJhIjoxfQ==","expire_at":%d}}`, soon), `{"id":2,"subscribe":{"channel":"chat:1"}}`, `"data":{"a":1}`},
		{"subscribe with an end", "/subscribe", fmt.Sprintf(`{"result":{"expire_at":%d,"override":{"force_recovery":{"value":false}}}}`, soon), `{"id":2,"subscribe":{"channel":"chat:1"}}`, `{"id":2,"subscribe":{}}`}, // told, a client without getToken would give up
		{"subscribe without positions", "/subscribe", `{"result":{"override":{"force_recovery":{"value":false}}}}`, `{"id":2,"subscribe":{"channel":"chat:1"}}`, `{"id":2,"subscribe":{}}`},
		{"a token's channel", "/subscribe", `{}`, `{"id":2,"subscribe":{"channel":"$chat:1"}}`, `"code":103`},
		{"another's channel", "/subscribe", `{}`, `{"id":2,"subscribe":{"channel":"chat:1#ann"}}`, `"code":103`},
		{"a channel without the hook", "/subscribe", `{"error":{"code":1002,"message":"not asked"}}`, `{"id":2,"subscribe":{"channel":"open:1"}}`, `"epoch"`},
		{"publish", "/publish", `{}`, `{"id":2,"publish":{"channel":"chat:1","data":1}}`, `{"id":2,"publish":{}}`},
		{"publish an error", "/publish", `{"error":{"code":1003,"message":"rude"}}`, `{"id":2,"publish":{"channel":"chat:1","data":1}}`, `{"id":2,"error":{"code":1003,"message":"rude"}}`},
		{"publish the end", "/publish", `{"disconnect":{"code":4503,"reason":"spam"}}`, `{"id":2,"publish":{"channel":"chat:1","data":1}}`, `4503 spam`},
		{"publish what is not JSON", "/publish", `{"result":{"b64data":"e30x"}}`, `{"id":2,"publish":{"channel":"chat:1","data":1}}`, `"code":100`},
		{"rpc", "/rpc", `{"result":{"data":{"sum":3}}}`, `{"id":2,"rpc":{"method":"sum"}}`, `{"id":2,"rpc":{"data":{"sum":3}}}`},
		{"rpc in base64", "/rpc", `{"result":{"b64data":"WzFd"}}`, `{"id":2,"rpc":{"method":"sum"}}`, `{"id":2,"rpc":{"data":[1]}}`},
		{"rpc an error", "/rpc", `{"error":{"code":1004,"message":"?"}}`, `{"id":2,"rpc":{"method":"sum"}}`, `{"id":2,"error":{"code":1004,"message":"?"}}`},
		{"rpc the end, at length", "/rpc", `{"disconnect":{"code":4504,"reason":"` + strings.Repeat("é", 100) + `"}}`, `{"id":2,"rpc":{"method":"sum"}}`, "4504 " + strings.Repeat("é", 61)},
		{"rpc by a long name", "/rpc", `{}`, `{"id":2,"rpc":{"method":"` + strings.Repeat("m", 256) + `"}}`, `"code":107`},
	} {
		k := talk(t, address, nil)
		if c.path != "/connect" {
			b.answer("/connect", `{"result":{"user":"joe"}}`)
			k.ask(`{"id":1,"connect":{}}`)
		}
		b.answer(c.path, c.reply)
		got := k.ask(c.command)
		if strings.HasPrefix(c.want, `"`) && !strings.Contains(got, c.want) || !strings.HasPrefix(c.want, `"`) && got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		_ = k.ws.CloseNow()
	}
	if n.stats.hooks.failed.Load() == 0 {
		t.Error("nothing was counted")
	}
}

// The connect hook's user, info, data and subscriptions, and the publish hook's changes, reach whom they must.
func TestHookResultsAreUsed(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.Hooks = hooksTo(t, b, "", "connect", "publish", "subscribe")
		c.Namespaces = must(ParseNamespaces(hookNamespaces))
	})
	b.answer("/connect", fmt.Sprintf(`{"result":{"user":"joe","expire_at":%d,"info":{"n":"J"},"data":{"hi":1},"channels":["open:1"],"subs":{"chat:9":{"data":{"s":1}}}}}`, time.Now().Add(time.Hour).Unix()))
	k := talk(t, address, nil)
	var reply struct {
		Connect struct {
			Expires bool
			Data    json.RawMessage
			Subs    map[string]struct {
				Recoverable bool
				Data        json.RawMessage
				Epoch       string
				Offset      uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(k.ask(`{"id":1,"connect":{}}`)), &reply); err != nil {
		t.Fatal(err)
	}
	r := reply.Connect
	if r.Expires || string(r.Data) != `{"hi":1}` || len(r.Subs) != 2 || !r.Subs["open:1"].Recoverable || string(r.Subs["chat:9"].Data) != `{"s":1}` {
		t.Errorf("%+v", r)
	}
	b.answer("/publish", `{"result":{"data":{"changed":true},"tags":{"k":"v"}}}`)
	k.say(`{"id":2,"publish":{"channel":"chat:9","data":{"c":3}}}`)
	got := k.hear() + k.hear()
	id := n.hub.all()[0].id
	if want := `"data":{"changed":true},"info":{"user":"joe","client":"` + id + `","conn_info":{"n":"J"}}`; !strings.Contains(got, want) || !strings.Contains(got, `"tags":{"k":"v"}`) {
		t.Errorf("%s, want %s", got, want)
	}
	b.answer("/publish", `{"result":{"skip_history":true}}`)
	k.say(`{"id":3,"publish":{"channel":"chat:9","data":"passing"}}`)
	if got = k.hear() + k.hear(); !strings.Contains(got, `"passing"`) || strings.Contains(got, `"offset"`) {
		t.Errorf("%s", got)
	}
	if h := must(n.History(t.Context(), "chat:9", HistoryFilter{Limit: -1})); len(h.Messages) != 1 {
		t.Errorf("%d messages in the log, want the one that was not skipped", len(h.Messages))
	}

	// It comes back to what it began with, and recovers what it missed there.
	_ = k.ws.CloseNow()
	at := r.Subs["open:1"]
	missed := must(n.Publish(t.Context(), Message{Channel: "open:1", Data: []byte(`"missed"`)}))
	eventually(t, 5*time.Second, "it arrives", func() bool { return handedOn(n, missed[0].Offset) })
	k = talk(t, address, nil)
	got = k.ask(fmt.Sprintf(`{"id":1,"connect":{"subs":{"open:1":{"recover":true,"epoch":%q,"offset":%d}}}}`, at.Epoch, at.Offset))
	if !strings.Contains(got, `"missed"`) || !strings.Contains(got, `"recovered":true`) {
		t.Errorf("%s", got)
	}
	if body, _ := b.last("/connect"); !strings.Contains(body, `"channels":["open:1"]`) {
		t.Errorf("%s", body)
	}
	// A token goes before the hook.
	before := b.count("/connect")
	if got = talk(t, address, nil).ask(fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, must(SignToken(testSecret, "ann", time.Hour)))); !strings.Contains(got, `"client"`) || b.count("/connect") != before {
		t.Errorf("%s", got)
	}
}

// A backend that does not answer as it must costs a client a temporary error, in bounded time.
func TestHookBackendMisbehaves(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.AllowAnonymous = true
		c.Hooks = hooksTo(t, b, `,"timeout":"300ms"`, "rpc")
	})
	release := make(chan struct{})
	defer close(release)
	write := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	for name, h := range map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		},
		"hangs in the body": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"result":`)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		},
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"204": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"dies":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"garbage": write("<html>"),
		"nothing": write(""),
		"two":     write("{} {}"),
		"huge":    write(`{"result":{"data":"` + strings.Repeat("x", maxHookReply) + `"}}`),
		"a bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped([]byte(`{"result":{"data":"` + strings.Repeat("x", 64*maxHookReply) + `"}}`)))
		},
		"no error code":   write(`{"error":{"message":"no"}}`),
		"no such code":    write(`{"disconnect":{"code":1000,"reason":"bye"}}`),
		"another's shape": write(`{"result":[1]}`),
	} {
		b.handle("/rpc", h)
		k := talk(t, address, nil)
		k.ask(`{"id":1,"connect":{}}`)
		start := time.Now()
		if got := k.ask(`{"id":2,"rpc":{"method":"m"}}`); got != `{"id":2,"error":{"code":100,"message":"internal server error","temporary":true}}` {
			t.Errorf("%s: %s", name, got)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		// The connection goes on.
		b.answer("/rpc", `{"result":{"data":1}}`)
		if got := k.ask(`{"id":3,"rpc":{"method":"m"}}`); got != `{"id":3,"rpc":{"data":1}}` {
			t.Errorf("after %s: %s", name, got)
		}
	}
	if b.count("/elsewhere") != 0 {
		t.Error("a redirect was followed")
	}
	n.hooks.rpc.url = gone.URL
	k := talk(t, address, nil)
	k.ask(`{"id":1,"connect":{}}`)
	if got := k.ask(`{"id":2,"rpc":{"method":"m"}}`); !strings.Contains(got, `"code":100`) {
		t.Errorf("down: %s", got)
	}
}

// Over the bound of calls under way a client is told at once to come later; and a replica that stops does not
// wait for a backend that hangs.
func TestHookCallsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	release := make(chan struct{})
	b.handle("/rpc", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	n, address, stop := startHooked(t, dbtest.New(t), func(c *Config) {
		c.AllowAnonymous = true
		c.ShutdownTimeout = 400 * time.Millisecond
		c.Hooks = hooksTo(t, b, `,"timeout":"30s"`, "rpc")
		c.Hooks.rpc.slots = make(chan struct{}, 3)
	})
	for range 3 {
		k := talk(t, address, nil)
		k.ask(`{"id":1,"connect":{}}`)
		k.say(`{"id":2,"rpc":{"method":"m"}}`)
	}
	eventually(t, 5*time.Second, "three calls are under way", func() bool { return b.count("/rpc") == 3 })
	k := talk(t, address, nil)
	k.ask(`{"id":1,"connect":{}}`)
	start := time.Now()
	if got := k.ask(`{"id":2,"rpc":{"method":"m"}}`); !strings.Contains(got, `"code":111`) || !strings.Contains(got, `"temporary":true`) {
		t.Errorf("%s", got)
	}
	if d := time.Since(start); d > time.Second || n.stats.hooks.refused.Load() != 1 || b.count("/rpc") != 3 {
		t.Errorf("refused after %v, %d counted, %d called", d, n.stats.hooks.refused.Load(), b.count("/rpc"))
	}
	start = time.Now()
	stop()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
	close(release)
}

// Connections of a method that is not configured are told so, as before there were hooks.
func TestRPCWithoutHook(t *testing.T) {
	t.Parallel()
	_, address, _ := startHooked(t, dbtest.New(t), func(c *Config) { c.AllowAnonymous = true })
	k := talk(t, address, nil)
	k.ask(`{"id":1,"connect":{}}`)
	if got := k.ask(`{"id":2,"rpc":{"method":"m"}}`); !strings.Contains(got, `"code":108`) {
		t.Errorf("%s", got)
	}
}

// While a command takes its time no pong can be heard, and none is missed.
func TestSlowCommandIsNoDeadClient(t *testing.T) {
	n := &Node{hub: newHub(1), logger: slog.New(slog.DiscardHandler)}
	out := &recorder{}
	c := newClient(n, out, wsJSON)
	c.shard.add(c)
	if _, _, d := c.accept(false, &Claims{}); d != nil {
		t.Fatal(d)
	}
	c.begin(&protocol.Reply{Id: 1})
	s := c.shard
	c.busy.Store(true)
	for range pingInterval + 3*pongTimeout {
		s.beat(time.Now())
	}
	if out.ended != nil {
		t.Fatalf("while it waits: %v", out.ended)
	}
	c.busy.Store(false)
	s.beat(time.Now())
	if out.ended != nil {
		t.Fatalf("just after: %v", out.ended)
	}
	for range 2 * pongTimeout { // another ping may begin meanwhile
		s.beat(time.Now())
	}
	if out.ended != disconnectNoPong {
		t.Errorf("a client that really is dead: %v", out.ended)
	}
}

// recorder is a transport that remembers.
type recorder struct {
	sent  []string
	ended *Disconnect
}

func (r *recorder) send(b []byte, _ int) error { r.sent = append(r.sent, string(b)); return nil }

func (r *recorder) Close() error { return nil }

func (r *recorder) disconnect(d *Disconnect) bool {
	if r.ended != nil {
		return false
	}
	r.ended = d
	return true
}
