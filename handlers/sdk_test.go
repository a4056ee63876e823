package handlers_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"

	"forgewire/realtime"
)

// The official client sees who is there, who joins and who leaves, over two replicas.
func TestOfficialClientSeesPresence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	var mu sync.Mutex
	var seen []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, what)
	}
	has := func(what string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(seen, what)
		}
	}
	follow := func(replica int, user string) (*centrifuge.Client, *centrifuge.Subscription) {
		client := centrifuge.NewJsonClient("ws"+strings.TrimPrefix(c.servers[replica].URL, "http")+"/connection/websocket",
			centrifuge.Config{Token: must(realtime.SignToken("secret of the tests", user, time.Hour))})
		t.Cleanup(client.Close)
		sub := must(client.NewSubscription("room:1", centrifuge.SubscriptionConfig{JoinLeave: true}))
		if user == "watcher" {
			sub.OnJoin(func(e centrifuge.JoinEvent) { note("+" + e.User) })
			sub.OnLeave(func(e centrifuge.LeaveEvent) { note("-" + e.User) })
		}
		if err := client.Connect(); err != nil {
			t.Fatal(err)
		}
		if err := sub.Subscribe(); err != nil {
			t.Fatal(err)
		}
		return client, sub
	}
	_, watching := follow(0, "watcher")
	eventually(t, "the watcher's own join", has("+watcher"))
	guest, _ := follow(1, "guest")
	eventually(t, "the guest's join", has("+guest"))
	if p, err := watching.Presence(t.Context()); err != nil || len(p.Clients) != 2 {
		t.Errorf("%v, %v", p, err)
	}
	if s, err := watching.PresenceStats(t.Context()); err != nil || s.NumClients != 2 || s.NumUsers != 2 {
		t.Errorf("%v, %v", s, err)
	}
	guest.Close()
	eventually(t, "the guest's leave", has("-guest"))
	if p, err := watching.Presence(t.Context()); err != nil || len(p.Clients) != 1 {
		t.Errorf("%v, %v", p, err)
	}
}
