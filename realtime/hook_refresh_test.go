package realtime

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"forgewire/db/dbtest"
)

// When a connection expires the refresh hook decides whether it goes on.
func TestRefreshHook(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) { c.Hooks = hooksTo(t, b, `,"include_connection_meta":true`, "connect", "refresh") })
	connect := func() (*talker, *client) {
		b.answer("/connect", fmt.Sprintf(`{"result":{"user":"joe","expire_at":%d,"meta":{"m":1}}}`, time.Now().Unix()+2))
		k := talk(t, address, nil)
		if got := k.ask(`{"id":1,"connect":{}}`); strings.Contains(got, `"expires"`) || !strings.Contains(got, `"client"`) {
			t.Errorf("the client was told of what the server does itself: %s", got)
		}
		return k, n.hub.all()[0]
	}
	expires := func(c *client) time.Time {
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		return c.expires
	}
	for _, step := range []struct{ name, reply, end string }{
		{"over", `{"result":{"expired":true}}`, "3005 connection expired"},
		{"no result", `{}`, "3005 connection expired"},
		{"in the past", `{"result":{"expire_at":1}}`, "3005 connection expired"},
		{"the end", `{"disconnect":{"code":4505,"reason":"banned"}}`, "4505 banned"},
	} {
		b.answer("/refresh", step.reply)
		k, _ := connect()
		if got := k.hear(); got != step.end {
			t.Errorf("%s: %s", step.name, got)
		}
		eventually(t, 5*time.Second, "gone", func() bool { return len(n.hub.all()) == 0 })
	}
	body, _ := b.last("/refresh")
	if !strings.Contains(body, `"user":"joe"`) || !strings.Contains(body, `"meta":{"m":1}`) {
		t.Errorf("%s", body)
	}

	later := time.Now().Add(time.Hour).Unix()
	b.answer("/refresh", fmt.Sprintf(`{"result":{"expire_at":%d,"info":{"n":"new"},"meta":{"m":2}}}`, later))
	_, c := connect()
	eventually(t, 10*time.Second, "refreshed", func() bool { return expires(c).Unix() == later })
	if string(c.connInfo()) != `{"n":"new"}` || string(c.connMeta()) != `{"m":2}` {
		t.Errorf("%s, %s", c.connInfo(), c.connMeta())
	}

	// A backend that is away ends nothing yet.
	b.handle("/refresh", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	c.shard.mu.Lock()
	c.expires = time.Now()
	c.shard.mu.Unlock()
	eventually(t, 10*time.Second, "put off", func() bool { return time.Until(expires(c)) > hookGrace/3 })
}

// When a subscription expires the sub_refresh hook decides whether it goes on.
func TestSubRefreshHook(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	n, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.AllowAnonymous = true
		c.Hooks = hooksTo(t, b, "", "subscribe", "sub_refresh")
		c.Namespaces = must(ParseNamespaces(`{"namespaces":[{"name":"chat","subscribe_proxy":true}]}`))
	})
	k := talk(t, address, nil)
	k.ask(`{"id":1,"connect":{}}`)
	c := n.hub.all()[0]
	subscribe := func(id int) {
		b.answer("/subscribe", fmt.Sprintf(`{"result":{"expire_at":%d,"info":{"x":1}}}`, time.Now().Unix()+2))
		if got := k.ask(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"chat:1"}}`, id)); !strings.Contains(got, `"epoch"`) || strings.Contains(got, `"expires"`) {
			t.Errorf("%s", got)
		}
	}
	b.answer("/sub_refresh", `{"result":{"expired":true}}`)
	subscribe(2)
	if got := k.hear(); got != `{"push":{"channel":"chat:1","unsubscribe":{"code":2501,"reason":"subscription expired"}}}` {
		t.Errorf("%s", got)
	}
	if body, _ := b.last("/sub_refresh"); !strings.Contains(body, `"user":"","channel":"chat:1"`) {
		t.Errorf("%s", body)
	}
	later := time.Now().Add(time.Hour).Unix()
	b.answer("/sub_refresh", fmt.Sprintf(`{"result":{"expire_at":%d,"info":{"x":2}}}`, later))
	subscribe(3)
	eventually(t, 10*time.Second, "refreshed", func() bool {
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		return c.subs["chat:1"].expires.Unix() == later && c.subs["chat:1"].ends.Unix() == later && string(c.subs["chat:1"].info) == `{"x":2}`
	})
}

// Without a sub_refresh hook a subscription ends when its client has had time to refresh it.
func TestSubscriptionEndsWithoutHook(t *testing.T) {
	n := &Node{hub: newHub(1), cfg: Config{Namespaces: NewNamespaces()}}
	out := &recorder{}
	c := newClient(n, out, wsJSON)
	c.shard.heads[0].Epoch = "e"
	c.shard.add(c)
	if _, _, d := c.accept(false, &Claims{}); d != nil {
		t.Fatal(d)
	}
	at := time.Now()
	for channel, expires := range map[string]time.Time{"soon": at.Add(time.Second), "later": at.Add(time.Hour), "never": {}} {
		sub, _, err := c.register(channel, grant{expires: expires, token: true, server: channel == "later"}, nil, Position{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if !c.begin(&protocol.Reply{Id: 1}, sub) {
			t.Fatal("not whole")
		}
	}
	c.shard.beat(at.Add(2 * time.Second))
	if len(c.subs) != 3 {
		t.Error("a subscription ended before its client could refresh it")
	}
	c.shard.beat(at.Add((expiredLeeway + 2) * time.Second))
	if sent := strings.Join(out.sent, ""); len(c.subs) != 2 || strings.Count(sent, `"code":2501`) != 1 {
		t.Errorf("%d subscriptions, %q", len(c.subs), out.sent)
	}
	if out.ended != nil {
		t.Errorf("%v", out.ended)
	}
	c.shard.beat(at.Add(2 * time.Hour))
	if out.ended != disconnectInsufficient {
		t.Errorf("one that the client did not ask for: %v", out.ended)
	}
}

// Without refresh hooks what a hook limited ends on time, without a word before, and the client comes back by
// itself: the hooks decide anew.
func TestHookedExpiryWithoutRefresh(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	_, address, _ := startHooked(t, dbtest.New(t), func(c *Config) {
		c.Hooks = hooksTo(t, b, "", "connect", "subscribe")
		c.Namespaces = must(ParseNamespaces(`{"namespaces":[{"name":"chat","subscribe_proxy":true}]}`))
	})
	b.answer("/connect", fmt.Sprintf(`{"result":{"user":"joe","expire_at":%d}}`, time.Now().Unix()+6))
	k := talk(t, address, nil)
	start := time.Now()
	if got := k.ask(`{"id":1,"connect":{}}`); strings.Contains(got, `"expires"`) {
		t.Errorf("%s", got)
	}
	b.answer("/subscribe", fmt.Sprintf(`{"result":{"expire_at":%d}}`, time.Now().Unix()+2))
	if got := k.ask(`{"id":2,"subscribe":{"channel":"chat:1"}}`); strings.Contains(got, `"expires"`) || !strings.Contains(got, `"epoch"`) {
		t.Errorf("%s", got)
	}
	if got := k.hear(); !strings.Contains(got, `"unsubscribe":{"code":2501`) {
		t.Errorf("%s", got)
	}
	if got := k.hear(); got != "3005 connection expired" || time.Since(start) > 15*time.Second {
		t.Errorf("%s after %v", got, time.Since(start))
	}
}
