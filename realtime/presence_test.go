package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// town is replicas on one database.
type town struct {
	pool  *pgxpool.Pool
	nodes []*Node
	stop  []func() // ends one in order
}

const townNamespaces = `{"namespaces":[
	{"name":"room","presence":true,"join_leave":true},
	{"name":"quiet","presence":true,"allow_presence_for_subscriber":false},
	{"name":"cursor","ephemeral":true}]}`

func newTown(t testing.TB, replicas int) *town {
	t.Helper()
	url := dbtest.New(t)
	tn := &town{}
	for i := range replicas {
		pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: url}))
		t.Cleanup(pool.Close)
		tn.pool = pool
		n := must(New(Config{Pool: pool, ListenURL: url, Logger: slog.New(slog.DiscardHandler), Name: fmt.Sprint("replica ", i), Version: "test",
			AllowAnonymous: true, Namespaces: must(ParseNamespaces(townNamespaces)), MaxConnections: 20_000, MaxPublicationBytes: 1 << 20,
			RetentionAge: time.Hour, RetentionBytes: 1 << 30, ShutdownTimeout: 2 * time.Second}))
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		stop := sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(stop)
		tn.nodes, tn.stop = append(tn.nodes, n), append(tn.stop, stop)
	}
	for _, n := range tn.nodes {
		eventually(t, 10*time.Second, "a replica listens", func() bool { return n.Epoch("") != "" })
	}
	return tn
}

// guest is a client without a socket.
type guest struct {
	*client
	mu   sync.Mutex
	got  bytes.Buffer // what it was sent, one reply a line
	gone *Disconnect
}

func (g *guest) send(encoded []byte, _ int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got.Write(encoded)
	return nil
}

func (g *guest) disconnect(d *Disconnect) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = d
	return true
}

func (g *guest) Close() error { return nil }

// visit connects a guest.
func visit(n *Node, user string) *guest {
	g := &guest{}
	g.client = newClient(n, g, streamJSON)
	g.user = user
	n.hub.count.Add(1)
	n.known.Add(1)
	g.shard.add(g.client)
	n.presence.connected()
	g.shard.mu.Lock()
	g.shard.identified(g.client)
	g.connected = true
	g.shard.mu.Unlock()
	return g
}

func (g *guest) goHome() {
	g.shard.remove(g.client)
	g.node.known.Add(-1)
	g.node.hub.count.Add(-1)
}

// do runs a command and returns its reply.
func (g *guest) do(t testing.TB, command string) map[string]json.RawMessage {
	t.Helper()
	from := len(g.lines())
	if d := g.handleFrame(context.Background(), websocket.MessageText, []byte(`{"id":1,`+command+`}`)); d != nil {
		t.Fatalf("%s: disconnected: %s", command, d.Reason)
	}
	for _, line := range g.lines()[from:] {
		var r map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if r["id"] != nil {
			return r
		}
	}
	t.Fatalf("%s: no reply", command)
	return nil
}

func (g *guest) subscribe(t testing.TB, channel string) {
	t.Helper()
	if r := g.do(t, fmt.Sprintf(`"subscribe":{"channel":%q,"join_leave":true}`, channel)); r["error"] != nil {
		t.Fatalf("subscribe to %s: %s", channel, r["error"])
	}
}

func (g *guest) lines() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(strings.Split(g.got.String(), "\n"), func(s string) bool { return s == "" })
}

// news returns the joins (+) and leaves (-) that the guest was told of, by user.
func (g *guest) news() (all []string) {
	for _, line := range g.lines() {
		var r struct {
			Push struct {
				Join, Leave *struct{ Info struct{ User, Client string } }
			}
		}
		_ = json.Unmarshal([]byte(line), &r) // what is no push is no news
		if r.Push.Join != nil {
			all = append(all, "+"+r.Push.Join.Info.User)
		}
		if r.Push.Leave != nil {
			all = append(all, "-"+r.Push.Leave.Info.User)
		}
	}
	return all
}

func (g *guest) hears(t testing.TB, want ...string) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprint("news ", want), func() bool { return slices.Equal(g.news(), want) || len(g.news()) > len(want) })
	if got := g.news(); !slices.Equal(got, want) {
		t.Fatalf("heard %v, want %v", got, want)
	}
}

func clientsIn(t testing.TB, n *Node, channel string) int {
	t.Helper()
	return must(n.PresenceStats(t.Context(), channel)).Clients
}

// Who subscribes is there at once for itself, and soon for everybody, on every replica; who leaves is not.
func TestPresence(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	alice, bob, nobody := visit(tn.nodes[0], "alice"), visit(tn.nodes[1], "bob"), visit(tn.nodes[0], "")
	alice.show([]byte(`{"name":"Alice"}`))
	alice.subscribe(t, "room:1")
	if r := alice.do(t, `"presence":{"channel":"room:1"}`); !strings.Contains(string(r["presence"]), `"conn_info":{"name":"Alice"}`) {
		t.Errorf("alice does not find herself: %s", r)
	}
	bob.subscribe(t, "room:1")
	bob2 := visit(tn.nodes[0], "bob")
	bob2.subscribe(t, "room:1")
	must(0, tn.nodes[1].presence.settled(t.Context()))
	if r := alice.do(t, `"presence_stats":{"channel":"room:1"}`); string(r["presence_stats"]) != `{"num_clients":3,"num_users":2}` {
		t.Errorf("stats: %s", r)
	}
	members := must(tn.nodes[1].Presence(t.Context(), "room:1"))
	if len(members) != 3 || members[alice.id] == nil || string(members[alice.id].ConnInfo) != `{"name":"Alice"}` || members[bob.id].User != "bob" {
		t.Errorf("members: %v", members)
	}
	for command, code := range map[string]string{
		`"presence":{"channel":"room:2"}`:         "103", // not subscribed
		`"presence_stats":{"channel":"plain"}`:    "108", // no presence
		`"presence":{"channel":""}`:               "107",
		`"presence_stats":{"channel":"quiet:1"}`:  "103",
		`"presence":{"channel":"quiet:not mine"}`: "103",
	} {
		nobody.do(t, `"unsubscribe":{"channel":"quiet:1"}`)
		nobody.subscribe(t, "quiet:1")
		if r := nobody.do(t, command); !strings.Contains(string(r["error"]), `"code":`+code) {
			t.Errorf("%s: %s", command, r)
		}
	}
	bob.do(t, `"unsubscribe":{"channel":"room:1"}`)
	alice.goHome()
	must(0, tn.nodes[0].presence.settled(t.Context()))
	if n := clientsIn(t, tn.nodes[1], "room:1"); n != 1 {
		t.Errorf("%d are there, want bob's other connection", n)
	}
}

// Ten thousand members of one channel on two replicas are counted right; a list of them is refused.
func TestPresenceOfMany(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	const many = 10_000
	guests := make([]*guest, many)
	for i := range guests {
		guests[i] = visit(tn.nodes[i%2], fmt.Sprint("user ", i/2))
		guests[i].do(t, `"subscribe":{"channel":"quiet:all"}`)
	}
	must(0, tn.nodes[0].presence.settled(t.Context()))
	if s := must(tn.nodes[1].PresenceStats(t.Context(), "quiet:all")); s.Clients != many || s.Users != many/2 {
		t.Errorf("%+v", s)
	}
	if _, err := tn.nodes[0].Presence(t.Context(), "quiet:all"); !errors.Is(err, errCrowded) {
		t.Errorf("a list of %d: %v", many, err)
	}
	for _, g := range guests[MaxPresence:] {
		g.goHome()
	}
	must(0, tn.nodes[1].presence.settled(t.Context()))
	if m := must(tn.nodes[0].Presence(t.Context(), "quiet:all")); len(m) != MaxPresence {
		t.Errorf("%d are left", len(m))
	}
}

// Joins and leaves reach subscribers on all replicas that asked for them, and nobody else.
func TestJoinLeave(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	near, far, deaf := visit(tn.nodes[0], "near"), visit(tn.nodes[1], "far"), visit(tn.nodes[1], "deaf")
	near.subscribe(t, "room:1")
	near.hears(t, "+near")
	far.subscribe(t, "room:1")
	near.hears(t, "+near", "+far")
	// Its replica may have been a moment behind when far subscribed.
	withoutNear := func(want ...string) {
		t.Helper()
		eventually(t, 10*time.Second, fmt.Sprint("news ", want), func() bool {
			return slices.Equal(slices.DeleteFunc(far.news(), func(s string) bool { return s == "+near" }), want)
		})
	}
	withoutNear("+far")
	deaf.do(t, `"subscribe":{"channel":"room:1"}`)
	withoutNear("+far", "+deaf")
	near.hears(t, "+near", "+far", "+deaf")
	near.goHome()
	withoutNear("+far", "+deaf", "-near")
	if h := deaf.news(); len(h) != 0 {
		t.Errorf("who did not ask heard %v", h)
	}
}

// A client that comes and goes makes no storm: others hear the difference, once it is quiet.
func TestFlapping(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	watcher, flapper := visit(tn.nodes[1], "watcher"), visit(tn.nodes[0], "flapper")
	watcher.subscribe(t, "room:1")
	watcher.hears(t, "+watcher")
	flapper.subscribe(t, "room:1")
	watcher.hears(t, "+watcher", "+flapper")
	for range 100 {
		flapper.do(t, `"unsubscribe":{"channel":"room:1"}`)
		flapper.subscribe(t, "room:1")
	}
	for range 50 { // with a new connection each time
		flapper.goHome()
		flapper = visit(tn.nodes[0], "flapper")
		flapper.subscribe(t, "room:1")
	}
	last := visit(tn.nodes[0], "last")
	last.subscribe(t, "room:1")
	there := []string{watcher.id, flapper.id, last.id}
	slices.Sort(there)
	eventually(t, 30*time.Second, "the news tell who is there", func() bool {
		present := map[string]bool{}
		for _, line := range watcher.lines() {
			var r struct {
				Push struct {
					Join, Leave *struct{ Info struct{ Client string } }
				}
			}
			_ = json.Unmarshal([]byte(line), &r)
			if r.Push.Join != nil {
				present[r.Push.Join.Info.Client] = true
			}
			if r.Push.Leave != nil {
				delete(present, r.Push.Leave.Info.Client)
			}
		}
		return slices.Equal(slices.Sorted(maps.Keys(present)), there)
	})
	if h := watcher.news(); len(h) > 9 {
		t.Errorf("a storm: heard %v", h)
	}
}

// The members of a dead replica vanish with its lease, at once, and one survivor says so; a replica that was
// only asleep says that they are back.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 3)
	ctx := t.Context()
	watcher := visit(tn.nodes[0], "watcher")
	watcher.subscribe(t, "room:1")
	watcher.hears(t, "+watcher")
	visit(tn.nodes[1], "other").subscribe(t, "quiet:1") // another survivor
	// A replica that was killed leaves this behind.
	must(tn.pool.Exec(ctx, "INSERT INTO forgewire.replicas VALUES ('dead', 'dead', clock_timestamp() + interval '1 minute')"))
	must(tn.pool.Exec(ctx, `INSERT INTO forgewire.presence SELECT 'room:1', 'client ' || i, 'dead', 'ghost' FROM generate_series(1, 500) i`))
	sleeper := visit(tn.nodes[2], "sleeper")
	sleeper.subscribe(t, "room:1")
	watcher.hears(t, "+watcher", "+sleeper")
	if n := clientsIn(t, tn.nodes[2], "room:1"); n != 502 {
		t.Fatalf("%d are there", n)
	}
	must(tn.pool.Exec(ctx, "UPDATE forgewire.replicas SET expires = clock_timestamp() - interval '1 second' WHERE id IN ('dead', $1)", tn.nodes[2].id))
	if n := clientsIn(t, tn.nodes[0], "room:1"); n != 1 {
		t.Errorf("%d are there after the leases ended", n)
	}
	var wg sync.WaitGroup
	for _, n := range tn.nodes[:2] { // both survivors look at once
		wg.Go(n.presence.check)
	}
	wg.Wait()
	eventually(t, 10*time.Second, "501 leaves", func() bool { return len(watcher.news()) == 503 })
	if n := one[int](t, tn.pool, "SELECT count(*) FROM forgewire.presence WHERE channel = 'room:1'"); n != 1 {
		t.Errorf("%d rows are left", n)
	}
	tn.nodes[2].presence.check()
	eventually(t, 10*time.Second, "the sleeper is back", func() bool { return len(watcher.news()) == 504 })
	if h := watcher.news(); h[503] != "+sleeper" || clientsIn(t, tn.nodes[0], "room:1") != 2 {
		t.Errorf("heard %v, %d are there", h[500:], clientsIn(t, tn.nodes[0], "room:1"))
	}
}

// Unlogged tables are emptied by a crash, also while clients come and go: each replica writes its own again.
func TestPresenceTableIsLost(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	ctx := t.Context()
	watcher := visit(tn.nodes[0], "watcher")
	watcher.subscribe(t, "room:0")
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for j := range 400 {
				g := visit(tn.nodes[i], fmt.Sprint("u", j))
				g.subscribe(t, "room:1")
				if j%2 == 0 {
					g.goHome()
				}
			}
		})
	}
	for range 5 {
		must(tn.pool.Exec(ctx, "TRUNCATE forgewire.presence"))
		must(tn.pool.Exec(ctx, "TRUNCATE forgewire.replicas, forgewire.presence"))
	}
	wg.Wait()
	check := func() { // as after a reconnect, and with each renewal
		for _, n := range tn.nodes {
			n.presence.check()
		}
	}
	whole := func(want int) {
		t.Helper()
		eventually(t, leaseRenewal/2, "all are there again", func() bool {
			return clientsIn(t, tn.nodes[0], "room:1") == want && clientsIn(t, tn.nodes[1], "room:1") == want && clientsIn(t, tn.nodes[0], "room:0") == 1
		})
	}
	check()
	whole(400)
	must(tn.pool.Exec(ctx, "TRUNCATE forgewire.presence"))
	check()
	whole(400)
	// A crash empties both; the next that joins finds out.
	must(tn.pool.Exec(ctx, "TRUNCATE forgewire.replicas, forgewire.presence"))
	for _, n := range tn.nodes {
		visit(n, "last").subscribe(t, "room:1")
	}
	whole(402)
	watcher.hears(t, "+watcher") // nobody was said to have come back
}

// A replica that stops in order leaves nothing behind, and tells who left.
func TestPresenceStops(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 2)
	watcher, leaver := visit(tn.nodes[0], "watcher"), visit(tn.nodes[1], "leaver")
	watcher.subscribe(t, "room:1")
	watcher.hears(t, "+watcher")
	leaver.subscribe(t, "room:1")
	watcher.hears(t, "+watcher", "+leaver")
	leaver.goHome()
	tn.stop[1]()
	watcher.hears(t, "+watcher", "+leaver", "-leaver")
	if n := one[int](t, tn.pool, "SELECT count(*) FROM forgewire.replicas"); n != 1 {
		t.Errorf("%d leases are left", n)
	}
	if n := one[int](t, tn.pool, "SELECT count(*) FROM forgewire.presence"); n != 1 {
		t.Errorf("%d members are left", n)
	}
}

// A replica without clients has no lease, and gives up the one that it had.
func TestIdleReplicaHasNoLease(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 1)
	p := tn.nodes[0].presence
	leases := func() int { return one[int](t, tn.pool, "SELECT count(*) FROM forgewire.replicas") }
	if p.leased.Load() || leases() != 0 || p.next(time.Now()) != 0 {
		t.Fatal("an idle replica has a lease")
	}
	g := visit(tn.nodes[0], "u")
	eventually(t, 10*time.Second, "the first client brings a lease", p.leased.Load)
	g.goHome()
	p.check()
	eventually(t, 10*time.Second, "it is given up", func() bool { return !p.leased.Load() })
	if leases() != 0 {
		t.Error("its row is left")
	}
	// A client that comes while the lease is given up saw one; it gets another.
	late := newPresence(tn.pool, p.logger, "late", "", func() bool { return true }, nil)
	late.leased.Store(true)
	if err := late.release(t.Context()); err != nil || len(late.wake) != 1 {
		t.Errorf("nothing makes it take a lease: %v", err)
	}
}

// While the database does not take it, what is to be told is bounded, and nothing of presence is forgotten.
func TestNewsAreBounded(t *testing.T) {
	t.Parallel()
	p := newPresence(nil, slog.New(slog.DiscardHandler), "id", "", func() bool { return true }, func(string) bool { return true })
	for i := range maxNews + 100 {
		p.join("c", infoFor(fmt.Sprint(i)))
	}
	b := p.take(time.Now())
	if len(b.news) != maxNews || len(b.places) != maxNews+100 {
		t.Fatalf("%d news, %d places", len(b.news), len(b.places))
	}
	p.join("c", infoFor("later"))
	p.gather(b.places[:maxMemberWrites]) // as write does: the rest waits
	p.leave("c", infoFor("0"))
	p.leave("c", infoFor(fmt.Sprint(maxNews)))
	p.giveBack(b, maxMemberWrites)
	b = p.take(time.Now())
	slices.SortFunc(b.places, func(x, y place) int { return strings.Compare(x.client, y.client) })
	if all := len(b.places); len(b.news) != maxNews || all != maxNews+101 || len(slices.Compact(b.places)) != all {
		t.Errorf("after a failure %d news, %d places", len(b.news), len(b.places))
	}
}
