package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// startNode runs a replica on a database, behind a server of its own, until the test ends.
func startNode(t testing.TB, url, namespaces string, change func(*Config)) (*Node, string) {
	t.Helper()
	pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: url, MaxConns: authorizeAtOnce + 4}))
	cfg := Config{Pool: pool, ListenURL: url, Logger: slog.New(slog.DiscardHandler), Tokens: TokenConfig{Secret: testSecret},
		Namespaces: must(ParseNamespaces(namespaces)), MaxConnections: 100, MaxPublicationBytes: 1 << 20, CommandRate: 100,
		RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: time.Second}
	if change != nil {
		change(&cfg)
	}
	r := runReplica(t, cfg, webSocketOnly)
	return r.node, r.webSocketURL()
}

// wire is a client that speaks the protocol by hand.
type wire struct {
	t    testing.TB
	ws   *websocket.Conn
	rest [][]byte
	id   int
}

type wireReply struct {
	ID    int
	Error *struct {
		Code      int
		Temporary bool
	}
	Connect *struct {
		Client  string
		Expires bool
		TTL     int
		Subs    map[string]wireSubscribe
	}
	Subscribe  *wireSubscribe
	History    *struct{}
	Publish    *struct{}
	Refresh    *struct{ TTL int }
	SubRefresh *struct {
		Expires bool
		TTL     int
	} `json:"sub_refresh"`
	Push *struct {
		Channel string
		Pub     *struct {
			Data json.RawMessage
			Info *struct {
				ChanInfo json.RawMessage `json:"chan_info"`
			}
		}
		Subscribe *struct {
			Offset uint64
			Epoch  string
			Data   json.RawMessage
		}
		Unsubscribe *struct{ Code int }
		Join, Leave *struct{ Info struct{ Client string } }
		Refresh     *struct {
			Expires bool
			TTL     int
		}
	}
}

type wireSubscribe struct {
	Expires       bool
	TTL           int
	Offset        uint64
	Epoch         string
	WasRecovering bool `json:"was_recovering"`
	Recovered     bool
	Data          json.RawMessage
	Publications  []struct{ Data json.RawMessage }
}

func dialWire(t testing.TB, url string) *wire {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, nil) //nolint:bodyclose // the library closes it
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &wire{t: t, ws: ws}
}

// send sends commands, each with the next id.
func (w *wire) send(commands ...string) {
	w.t.Helper()
	var lines []string
	for _, c := range commands {
		w.id++
		lines = append(lines, fmt.Sprintf(`{"id":%d,%s}`, w.id, c))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = w.ws.Write(ctx, websocket.MessageText, []byte(strings.Join(lines, "\n"))) // read tells why it failed
}

// read returns the next reply that is not a ping, or the code with which the connection was closed.
func (w *wire) read() (r wireReply, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for {
		for len(w.rest) > 0 {
			line := w.rest[0]
			w.rest = w.rest[1:]
			if string(line) == "{}" {
				continue
			}
			if err := json.Unmarshal(line, &r); err != nil {
				w.t.Fatalf("%q: %v", line, err)
			}
			return r, 0
		}
		_, b, err := w.ws.Read(ctx)
		if err != nil {
			if code = int(websocket.CloseStatus(err)); code < 0 {
				w.t.Fatal(err)
			}
			return r, code
		}
		w.rest = bytes.Split(b, []byte("\n"))
	}
}

// ask sends a command and returns its reply.
func (w *wire) ask(command string) wireReply {
	w.t.Helper()
	w.send(command)
	r, code := w.read()
	for code == 0 && r.ID != w.id {
		r, code = w.read()
	}
	if code != 0 {
		w.t.Fatalf("%s: closed with %d", command, code)
	}
	return r
}

// wantError asks and compares the error's code; 0 is none.
func (w *wire) wantError(command string, code int) wireReply {
	w.t.Helper()
	r := w.ask(command)
	if got := r.Error; code == 0 && got != nil || code != 0 && (got == nil || got.Code != code) {
		w.t.Fatalf("%s: %+v, want error %d", command, got, code)
	}
	return r
}

func (w *wire) wantClosed(code int) {
	w.t.Helper()
	for {
		if _, got := w.read(); got != 0 {
			if got != code {
				w.t.Fatalf("closed with %d, want %d", got, code)
			}
			return
		}
	}
}

func hs(claims map[string]any) string { return sign("HS256", []byte(testSecret), nil, claims) }

func connectAs(token string) string { return fmt.Sprintf(`"connect":{"token":%q}`, token) }

func joined(t testing.TB, url, token string) *wire {
	t.Helper()
	w := dialWire(t, url)
	w.wantError(connectAs(token), 0)
	return w
}

func subscribeTo(channel, token string) string {
	return fmt.Sprintf(`"subscribe":{"channel":%q,"token":%q}`, channel, token)
}

func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func TestConnectTokens(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), "", nil)
	w := dialWire(t, url)
	w.wantError(connectAs(hs(joe("exp", in(-time.Minute)))), 109)
	r := w.wantError(connectAs(hs(joe("exp", in(time.Minute)))), 0) // the same connection, with a new token
	if !r.Connect.Expires || r.Connect.TTL < 50 || r.Connect.TTL > 60 {
		t.Errorf("%+v", r.Connect)
	}
	w.wantError(fmt.Sprintf(`"refresh":{"token":%q}`, hs(joe("exp", in(-time.Minute)))), 109)
	if r = w.wantError(fmt.Sprintf(`"refresh":{"token":%q}`, hs(joe("exp", in(time.Hour)))), 0); r.Refresh.TTL < 3500 {
		t.Errorf("%+v", r.Refresh)
	}
	w.send(fmt.Sprintf(`"refresh":{"token":%q}`, hs(map[string]any{"sub": "jane"})))
	w.wantClosed(3500)
	for _, token := range []string{"", "a.b.c", hs(joe("channel", "a"))} {
		w = dialWire(t, url)
		w.send(connectAs(token))
		w.wantClosed(3500)
	}
}

func TestSubscribePermissions(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), `{"namespaces":[{"name":"closed","allow_subscribe_for_client":false},{"name":"members","allow_subscribe_for_anonymous":false}]}`,
		func(c *Config) { c.AllowAnonymous = true })
	joe1 := joined(t, url, hs(map[string]any{"sub": "42"}))
	nobody := dialWire(t, url)
	nobody.wantError(`"connect":{}`, 0)
	grant := func(channel string, more ...any) string {
		return hs(joe(append([]any{"sub", "42", "channel", channel}, more...)...))
	}
	for i, c := range []struct {
		w              *wire
		channel, token string
		code           int
	}{
		{joe1, "open", "", 0},
		{joe1, "$private", "", 103},
		{joe1, "$private", grant("$private"), 0},
		{joe1, "closed:1", "", 103},
		{joe1, "closed:1", grant("closed:2"), 103},
		{joe1, "closed:1", grant("closed:1", "sub", "43"), 103},
		{joe1, "closed:1", grant("closed:1", "exp", in(-time.Minute)), 109},
		{joe1, "closed:1", sign("none", noneKey, nil, joe("sub", "42", "channel", "closed:1")), 103},
		{joe1, "closed:1", hs(map[string]any{"sub": "42"}), 103}, // a connection token
		{joe1, "closed:1", "garbage", 103},
		{joe1, "closed:1", grant("closed:1", "exp", in(time.Minute)), 0},
		{joe1, "open:2", "garbage", 103}, // a bad token is bad everywhere
		{joe1, "dialog#41,42", "", 0},
		{joe1, "dialog#41,421", "", 103},
		{joe1, "dialog#", "", 103},
		{nobody, "open", "", 0},
		{nobody, "members:1", "", 103},
		{nobody, "dialog#", "", 103},
		{nobody, "$private", hs(map[string]any{"channel": "$private"}), 0},
	} {
		r := c.w.ask(subscribeTo(c.channel, c.token))
		if (r.Error == nil) != (c.code == 0) || r.Error != nil && r.Error.Code != c.code {
			t.Errorf("%d: %s: %+v, want %d", i, c.channel, r.Error, c.code)
		}
		if c.channel == "closed:1" && c.code == 0 && (!r.Subscribe.Expires || r.Subscribe.TTL < 50) {
			t.Errorf("expiry: %+v", r.Subscribe)
		}
	}
}

// Whose pages lie on other sites gets nothing, unless they are allowed.
func TestOriginOfAHandshake(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), "", func(c *Config) { c.AllowedOrigins = []string{"*.example.com"} })
	for origin, status := range map[string]int{"": 101, "https://app.example.com": 101, strings.Replace(url, "ws:", "http:", 1): 101,
		"https://evil.test": 403, "https://app.example.com.evil.test": 403, "null": 403} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		c, res, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // the library closes it
		if c != nil {
			_ = c.CloseNow()
		}
		if res == nil || res.StatusCode != status {
			t.Errorf("from %q: %v, %v; want %d", origin, res, err, status)
		}
	}
}

// A namespace may keep its past from those who follow it.
func TestHistoryIsNotForSubscribers(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), `{"namespaces":[{"name":"quiet","allow_history_for_subscriber":false}]}`, nil)
	w := joined(t, url, hs(map[string]any{"sub": "42"}))
	for _, channel := range []string{"quiet:1", "open:1"} {
		if r := w.ask(subscribeTo(channel, "")); r.Error != nil {
			t.Fatalf("%s: %+v", channel, r.Error)
		}
	}
	w.wantError(`"history":{"channel":"quiet:1","limit":1}`, 103)
	w.wantError(`"history":{"channel":"open:1","limit":1}`, 0)
}

// A subscription token that ends takes its subscription along, unless it is renewed.
func TestSubscriptionExpires(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	w := joined(t, url, hs(joe()))
	token := func(channel string, at time.Duration) string { return hs(joe("channel", channel, "exp", in(at))) }
	w.wantError(subscribeTo("$a", token("$a", time.Minute)), 0)
	w.wantError(subscribeTo("$b", token("$b", time.Minute)), 0)
	w.wantError(subscribeTo("c", ""), 0)
	refresh := func(channel, token string) string {
		return fmt.Sprintf(`"sub_refresh":{"channel":%q,"token":%q}`, channel, token)
	}
	w.wantError(refresh("$b", token("$a", time.Hour)), 103)
	w.wantError(refresh("$b", token("$b", -time.Hour)), 109)
	w.wantError(refresh("$b", ""), 107)
	w.wantError(refresh("$z", token("$z", time.Hour)), 103)
	if r := w.wantError(refresh("$b", token("$b", time.Hour)), 0); !r.SubRefresh.Expires || r.SubRefresh.TTL < 3500 {
		t.Errorf("%+v", r.SubRefresh)
	}
	c := n.hub.clientsOf("joe", "")[0]
	c.shard.mu.Lock()
	c.shard.expire(time.Now().Add(time.Minute + (expiredLeeway-2)*time.Second)) // within the leeway
	c.shard.expire(time.Now().Add(time.Minute + (expiredLeeway+2)*time.Second))
	c.shard.mu.Unlock()
	r, _ := w.read()
	if r.Push == nil || r.Push.Channel != "$a" || r.Push.Unsubscribe == nil || r.Push.Unsubscribe.Code != 2501 {
		t.Fatalf("%+v", r.Push)
	}
	must(n.Publish(t.Context(), message("$a", 1), message("$b", 2), message("c", 3)))
	for _, channel := range []string{"$b", "c"} {
		if r, _ = w.read(); r.Push == nil || r.Push.Channel != channel {
			t.Fatalf("%+v instead of a message on %s", r.Push, channel)
		}
	}
	w.wantError(subscribeTo("$a", token("$a", time.Minute)), 0)
	w.wantError(`"unsubscribe":{"channel":"$a"}`, 0)
	w.wantError(`"unsubscribe":{"channel":"$b"}`, 0)
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if len(c.shard.expiring) != 0 {
		t.Errorf("%d subscriptions are remembered that are gone", len(c.shard.expiring))
	}
}

// A connection whose token ended is closed after the leeway, by the beat.
func TestConnectionExpires(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	w := joined(t, url, hs(joe("exp", in(time.Minute))))
	s := n.hub.clientsOf("joe", "")[0].shard
	s.beat(time.Now().Add(time.Minute + (expiredLeeway-2)*time.Second))
	w.wantError(`"ping":{}`, 0)
	s.beat(time.Now().Add(time.Minute + (expiredLeeway+2)*time.Second))
	w.wantClosed(3005)
}

// losing is a past in which the log goes back while it is read.
type losing struct {
	past
	hub *hub
}

func (l losing) recover(context.Context, string, Position, uint64, kept) ([]*Message, error) {
	for _, s := range l.hub.shards {
		s.handle(event{lost: true, at: 1})
	}
	return nil, nil
}

// A subscription during whose making the log went back is none: its client is told to try again.
func TestLostWhileJoining(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	for _, channel := range []string{"a", "news"} {
		must(n.Publish(t.Context(), message(channel, 1)))
	}
	w := joined(t, url, hs(joe()))
	n.hub.in[0].tail.reset(Position{}) // it knows nothing, so the log is asked
	n.strands[0].past = losing{past: n.strands[0].past, hub: n.hub}
	was := fmt.Sprintf(`"recover":true,"offset":1,"epoch":%q`, n.Epoch(""))
	r := w.wantError(`"subscribe":{"channel":"a",`+was+`}`, 100)
	if !r.Error.Temporary || must(n.Channels(t.Context(), ""))["a"] != 0 {
		t.Errorf("%+v, %v", r.Error, must(n.Channels(t.Context(), "")))
	}
	// The shards are at 1 now, which is where this client is.
	must(n.Publish(t.Context(), message("a", 2)))
	eventually(t, 10*time.Second, "the replica goes on", func() bool { return n.hub.in[0].position().Offset > 1 })
	w = dialWire(t, url)
	w.send(fmt.Sprintf(`"connect":{"token":%q,"subs":{"news":{%s}}}`, hs(joe("channels", []string{"news"})), was))
	w.wantClosed(3010)
}

// Whoever holds a message that the log has lost is told to subscribe anew, with what he reads of it afterwards; whoever
// holds none keeps his subscription.
func TestUnsubscribedWhereTheLogWentBack(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	w := joined(t, url, hs(joe()))
	for _, channel := range []string{"a", "b"} {
		if r := w.ask(subscribeTo(channel, "")); r.Error != nil {
			t.Fatalf("%+v", r.Error)
		}
	}
	at := must(n.Publish(t.Context(), message("a", 1)))[0].Offset
	if r, code := w.read(); code != 0 || r.Push == nil || r.Push.Pub == nil {
		t.Fatalf("%+v, %d", r, code)
	}
	n.hub.in[0].lost(at - 1)
	r, code := w.read()
	if code != 0 || r.Push == nil || r.Push.Channel != "a" || r.Push.Unsubscribe == nil || r.Push.Unsubscribe.Code != 2500 {
		t.Fatalf("%+v, %d", r.Push, code)
	}
	if r := w.ask(subscribeTo("a", "")); r.Error != nil { // nothing came between: b was left alone
		t.Errorf("%+v", r.Error)
	}
	w.wantError(subscribeTo("b", ""), 105)
}

// Who was told to go is not heard any more, however long the socket lasts.
func TestDismissedIsNotHeard(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), `{"without_namespace":{"allow_publish_for_client":true}}`, nil)
	w := joined(t, url, hs(joe()))
	c := n.hub.clientsOf("joe", "")[0]
	c.disconnect(disconnectForced)
	if d := c.handleFrame(t.Context(), websocket.MessageText, []byte(`{"id":9,"publish":{"channel":"a","data":1}}`)); d != nil {
		t.Errorf("%v", d)
	}
	if count := one[int](t, n.cfg.Pool, "SELECT count(*) FROM forgewire.messages"); count != 0 {
		t.Error("it was published")
	}
	w.wantClosed(3503)
}
