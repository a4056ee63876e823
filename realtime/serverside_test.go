package realtime

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// The channels of a token are subscribed to with the connection, and resumed with it, on another replica too.
func TestTokenSubscriptions(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	a, urlA := startNode(t, db, "", nil)
	b, urlB := startNode(t, db, `{"without_namespace":{"allow_publish_for_subscriber":true}}`, nil)
	token := hs(joe("channels", []string{"news"}, "subs", map[string]any{"$me": map[string]any{"data": map[string]any{"a": 1}, "info": map[string]any{"role": "x"}}}))
	w := joinedWith(t, urlA, token)
	first := w.subs
	if len(first) != 2 || string(first["$me"].Data) != `{"a":1}` || first["news"].Epoch == "" {
		t.Fatalf("%+v", first)
	}
	w.wantError(subscribeTo("news", ""), 105)
	must(a.Publish(t.Context(), message("news", 1)))
	if r, _ := w.read(); r.Push == nil || r.Push.Channel != "news" || string(r.Push.Pub.Data) != "1" {
		t.Fatalf("%+v", r)
	}
	_ = w.ws.CloseNow()
	missed := must(a.Publish(t.Context(), message("news", 2), message("$me", 3), message("news", 4)))
	eventually(t, 10*time.Second, "the other replica has it", func() bool { return handedOn(b, missed[2].Offset) })
	was := fmt.Sprintf(`"connect":{"token":%q,"subs":{"news":{"recover":true,"offset":%d,"epoch":%q},"$me":{"recover":true,"offset":1,"epoch":"another"},"stolen":{"recover":true}}}`,
		token, first["news"].Offset, first["news"].Epoch)
	w = &joinedWire{wire: dialWire(t, urlB)}
	w.subs = w.wantError(was, 0).Connect.Subs
	news, me := w.subs["news"], w.subs["$me"]
	if len(w.subs) != 2 || !news.Recovered || len(news.Publications) != 3 || string(news.Publications[2].Data) != "4" || me.Recovered || !me.WasRecovering {
		t.Fatalf("%+v", w.subs)
	}
	w.send(`"publish":{"channel":"$me","data":{}}`)
	for {
		r, _ := w.read()
		if r.Push == nil || r.Push.Pub == nil {
			continue
		}
		if r.Push.Channel == "$me" && string(r.Push.Pub.Data) == "{}" {
			if string(r.Push.Pub.Info.ChanInfo) != `{"role":"x"}` {
				t.Errorf("info %s", r.Push.Pub.Info.ChanInfo)
			}
			break
		}
	}
}

type joinedWire struct {
	*wire
	subs map[string]wireSubscribe
}

func joinedWith(t *testing.T, url, token string) *joinedWire {
	w := &joinedWire{wire: dialWire(t, url)}
	w.subs = w.wantError(connectAs(token), 0).Connect.Subs
	return w
}

// The server subscribes and unsubscribes a user's connections wherever they are.
func TestServerSubscribes(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	a, urlA := startNode(t, db, "", nil)
	_, urlB := startNode(t, db, "", nil)
	all := []*wire{joined(t, urlA, hs(joe())), joined(t, urlB, hs(joe()))}
	jane := joined(t, urlB, hs(map[string]any{"sub": "jane"}))
	if err := a.Subscribe(t.Context(), "joe", "", "$orders", SubscribeOptions{Data: []byte("{\n}")}); err != nil {
		t.Fatal(err)
	}
	must(a.Publish(t.Context(), message("$orders", 1)))
	for _, w := range all {
		r, _ := w.read()
		if r.Push == nil || r.Push.Channel != "$orders" || r.Push.Subscribe == nil || r.Push.Subscribe.Epoch == "" || string(r.Push.Subscribe.Data) != "{}" {
			t.Fatalf("%+v", r.Push)
		}
		if r, _ = w.read(); r.Push == nil || r.Push.Pub == nil || string(r.Push.Pub.Data) != "1" {
			t.Fatalf("%+v", r.Push)
		}
	}
	if err := a.Unsubscribe(t.Context(), "joe", "", "$orders", 0, ""); err != nil {
		t.Fatal(err)
	}
	must(a.Publish(t.Context(), message("$orders", 2)))
	for _, w := range all {
		if r, _ := w.read(); r.Push == nil || r.Push.Unsubscribe == nil || r.Push.Unsubscribe.Code != 2000 {
			t.Fatalf("%+v", r.Push)
		}
		w.send(`"ping":{}`)
		if r, _ := w.read(); r.ID == 0 {
			t.Errorf("after the unsubscribe came %+v", r.Push)
		}
	}
	jane.send(`"ping":{}`)
	if r, _ := jane.read(); r.ID == 0 {
		t.Errorf("jane got %+v", r.Push)
	}
	for name, err := range map[string]error{
		"no user":     a.Subscribe(t.Context(), "", "", "a", SubscribeOptions{}),
		"no channel":  a.Subscribe(t.Context(), "joe", "", "", SubscribeOptions{}),
		"bad data":    a.Subscribe(t.Context(), "joe", "", "a", SubscribeOptions{Data: []byte("{")}),
		"a bad code":  a.Unsubscribe(t.Context(), "joe", "", "a", 3000, ""),
		"no user 2":   a.Unsubscribe(t.Context(), "", "", "a", 0, ""),
		"no user 3":   a.Refresh(t.Context(), "", "", false, time.Time{}),
		"too large":   a.Subscribe(t.Context(), "joe", "", "a", SubscribeOptions{Data: fmt.Appendf(nil, "%q", make([]byte, 9000))}),
		"revoke none": a.Revoke(t.Context(), "", time.Now()),
		"the future":  a.Revoke(t.Context(), "joe", time.Now().Add(time.Hour)),
	} {
		if e := (*Error)(nil); !errors.As(err, &e) || e.Code != 107 && e.Code != 106 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A cache channel's value follows the server's subscription. While it cannot be read, what else arrives is not held up.
func TestServerSubscribesToCacheChannel(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	const namespaces = `{"namespaces":[{"name":"state","cache_channel":true}]}`
	a, _ := startNode(t, url, namespaces, nil)
	must(a.Publish(t.Context(), message("state:1", 1)))
	b, ws := startNode(t, url, namespaces, nil) // its tail is empty: it asks the log
	turns := b.strands[0].log.turns
	for range maxTurns {
		turns <- struct{}{}
	}
	token := hs(joe("channels", []string{"news"}))
	all := []*wire{joined(t, ws, token), joined(t, ws, token)}
	if err := b.Subscribe(t.Context(), "joe", "", "state:1", SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	must(b.Publish(t.Context(), message("news", 2)))
	for _, w := range all {
		if r, _ := w.read(); r.Push == nil || r.Push.Channel != "state:1" || r.Push.Subscribe == nil {
			t.Fatalf("%+v", r.Push)
		}
		if r, _ := w.read(); r.Push == nil || r.Push.Pub == nil || string(r.Push.Pub.Data) != "2" {
			t.Fatalf("%+v", r.Push)
		}
	}
	for range maxTurns {
		<-turns
	}
	for _, w := range all {
		if r, _ := w.read(); r.Push == nil || r.Push.Channel != "state:1" || r.Push.Pub == nil || string(r.Push.Pub.Data) != "1" {
			t.Fatalf("%+v", r.Push)
		}
	}
}

// When the log goes back, a client resubscribes by itself to what it subscribed to; what the server subscribed
// it to comes back with its connection.
func TestServerSubscriptionLost(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	w := joined(t, url, hs(joe("channels", []string{"news"})))
	n.hub.in[0].lost(1)
	w.wantClosed(3010)
}

func TestServerRefreshes(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	_, urlA := startNode(t, db, "", nil)
	b, _ := startNode(t, db, "", nil)
	w := joined(t, urlA, hs(joe("exp", in(time.Hour))))
	for _, c := range []struct {
		at      time.Time
		expires bool
	}{{time.Now().Add(time.Minute), true}, {time.Time{}, false}} {
		if err := b.Refresh(t.Context(), "joe", "", false, c.at); err != nil {
			t.Fatal(err)
		}
		r, _ := w.read()
		if r.Push == nil || r.Push.Refresh == nil || r.Push.Refresh.Expires != c.expires || r.Push.Refresh.TTL > 60 {
			t.Fatalf("%+v", r.Push)
		}
	}
	if err := b.Refresh(t.Context(), "joe", "", true, time.Time{}); err != nil {
		t.Fatal(err)
	}
	w.wantClosed(3005)
}

// What is revoked is refused on every replica at once, also on one that did not listen at the time, and after
// a restart.
func TestRevocation(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	a, urlA := startNode(t, db, "", nil)
	_, urlB := startNode(t, db, "", nil)
	now := time.Now()
	iat := func(d time.Duration) string { return hs(joe("iat", now.Add(d).Unix())) }
	old, recent, ageless := iat(-time.Hour), iat(time.Minute), hs(joe())
	jane := joined(t, urlB, hs(map[string]any{"sub": "jane"}))
	gone := []*wire{joined(t, urlA, old), joined(t, urlB, old), joined(t, urlB, ageless)}
	stays := joined(t, urlB, recent)
	if err := a.Revoke(t.Context(), "joe", now); err != nil {
		t.Fatal(err)
	}
	for _, w := range gone {
		w.wantClosed(3503)
	}
	if err := a.Revoke(t.Context(), "joe", now.Add(-time.Minute)); err != nil { // never takes one back
		t.Fatal(err)
	}
	refused := func(url, token string) {
		t.Helper()
		w := dialWire(t, url)
		w.send(connectAs(token))
		w.wantClosed(3500)
	}
	_, urlC := startNode(t, db, "", nil)
	for _, url := range []string{urlA, urlB, urlC} {
		refused(url, old)
		refused(url, ageless)
		joined(t, url, recent)
	}
	jane.wantError(`"ping":{}`, 0)
	stays.wantError(subscribeTo("$a", hs(joe("channel", "$a", "iat", now.Add(-time.Hour).Unix()))), 109)
	stays.wantError(subscribeTo("$a", hs(joe("channel", "$a", "iat", now.Add(time.Minute).Unix()))), 0)
	stays.send(fmt.Sprintf(`"refresh":{"token":%q}`, old))
	stays.wantClosed(3500)
}

// A replica that was deaf when something was revoked learns of it when it listens again.
func TestRevocationWhileAway(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	n, ws := startNode(t, url, "", nil)
	w := joined(t, ws, hs(joe("iat", in(-time.Hour))))
	c := dial(t, url)
	// The notification is lost; what the function wrote is not.
	for _, sql := range []string{"INSERT INTO forgewire.revocations VALUES ('joe', now())",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forgewire listen' AND datname = current_database()"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.wantClosed(3503)
	if !n.revocations.refuse("joe", time.Now().Add(-time.Minute)) {
		t.Error("not known")
	}
}

// What says no more than the newest for everybody is forgotten, and not learned anew.
func TestRevocationsOfEverybody(t *testing.T) {
	var r revocations
	now := time.Now()
	for i := range 10 {
		r.add(fmt.Sprint("u", i), now.Add(time.Duration(i)*time.Second))
	}
	r.add("", now.Add(5*time.Second))
	r.add("u1", now.Add(time.Second))
	if len(r.before) != 5 {
		t.Errorf("%v", r.before)
	}
	for i := range 10 {
		if at := now.Add(time.Duration(max(5, i)) * time.Second); !r.refuse(fmt.Sprint("u", i), at.Add(-1)) || r.refuse(fmt.Sprint("u", i), at) {
			t.Errorf("u%d", i)
		}
	}
}

// Beyond the bound the oldest revocations become one for everybody: nobody gets back in, and those who lose
// out only need a new token.
func TestRevocationsAreBounded(t *testing.T) {
	t.Parallel()
	n, _ := startNode(t, dbtest.New(t), "", nil)
	long := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	for i := range 12 {
		if _, err := n.cfg.Pool.Exec(context.Background(), "SELECT forgewire.revoke($1, $2, 10)", fmt.Sprint("u", i), long.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if rows := one[int](t, n.cfg.Pool, "SELECT count(*) FROM forgewire.revocations"); rows != 11 {
		t.Errorf("%d rows", rows)
	}
	at := func(minutes int) time.Time { return long.Add(time.Duration(minutes)*time.Minute - time.Second) }
	eventually(t, 10*time.Second, "the replica was told", func() bool { return n.revocations.refuse("stranger", at(1)) })
	for i := range 12 {
		if !n.revocations.refuse(fmt.Sprint("u", i), at(i)) {
			t.Errorf("u%d is back", i)
		}
	}
	if n.revocations.refuse("stranger", at(3)) {
		t.Error("a stranger's newer token")
	}
}
