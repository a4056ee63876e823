package realtime

import (
	"strings"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// What is revoked ends also whom the connect hook named before, on every replica; whom it names afterwards it answers
// for itself. Somebody else, and whoever is nobody, stays.
func TestRevocationOfHookedUsers(t *testing.T) {
	t.Parallel()
	b := newBackend(t)
	db := dbtest.New(t)
	hooked := func(c *Config) { c.Hooks, c.AllowAnonymous = hooksTo(t, b, "", "connect"), true }
	_, urlA, _ := startHooked(t, db, hooked)
	n, urlB, _ := startHooked(t, db, hooked)
	as := func(url, result string) *talker {
		t.Helper()
		b.answer("/connect", result)
		k := talk(t, url, nil)
		if got := k.ask(`{"id":1,"connect":{}}`); !strings.Contains(got, `"client"`) {
			t.Fatal(got)
		}
		return k
	}
	const joe = `{"result":{"user":"joe"}}`
	gone := []*talker{as(urlA, joe), as(urlB, joe)}
	ann, nobody := as(urlA, `{"result":{"user":"ann"}}`), as(urlA, `{}`)
	revoke := func(user string) {
		t.Helper()
		if _, err := n.cfg.Pool.Exec(t.Context(), "SELECT forgewire.revoke($1)", user); err != nil {
			t.Fatal(err)
		}
	}
	revoke("joe")
	for _, k := range gone {
		if got := k.hear(); !strings.HasPrefix(got, "3503 ") {
			t.Errorf("joe: %s", got)
		}
	}
	again := as(urlA, joe)
	for name, k := range map[string]*talker{"joe, again": again, "ann": ann, "nobody": nobody} {
		if got := k.ask(`{"id":2,"ping":{}}`); !strings.HasPrefix(got, `{"id":2`) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n.revocations.refuse("joe", time.Now()) {
		t.Error("joe is refused for ever")
	}
}

// Replicas whose clocks are wrong date what the hook says by the database's.
func TestRevocationWithWrongClocks(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ took, ahead, want time.Duration }{
		{time.Second, time.Second / 2, 0},
		{time.Second, time.Hour + time.Second/2, time.Hour - time.Second/2},
		{time.Second, -time.Hour + time.Second/2, -time.Hour + time.Second/2},
	} {
		if got := skewOf(now, now.Add(c.ahead), now.Add(c.took)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	b := newBackend(t)
	n, url, _ := startHooked(t, dbtest.New(t), func(c *Config) { c.Hooks = hooksTo(t, b, "", "connect") })
	if skew := time.Duration(n.skew.Load()); skew.Abs() > time.Minute {
		t.Fatalf("this machine's clock is off by %v", skew)
	}
	n.skew.Store(int64(-time.Hour)) // as if the replica's were an hour ahead
	if _, err := n.cfg.Pool.Exec(t.Context(), "SELECT forgewire.revoke('joe', now() - interval '30 minutes')"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the replica was told", func() bool { return n.revocations.refuse("joe", now.Add(-time.Hour)) })
	b.answer("/connect", `{"result":{"user":"joe"}}`)
	k := talk(t, url, nil)
	k.say(`{"id":1,"connect":{}}`)
	if got := k.hear(); !strings.HasPrefix(got, "3500 ") {
		t.Errorf("joe, who was named before: %s", got)
	}
}
