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
