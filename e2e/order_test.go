package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// A replica listens before the database answers, says that it lives and why it is not ready, and is ready
// once a notification came round.
func TestReadyWhenANotificationCameRound(t *testing.T) {
	t.Parallel()
	server := ownServer(t, nil)
	c := newCluster(t, 1, options{server: server, idle: true})
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := c.replicas[0]
	r.start()
	until(t, 10*time.Second, "the replica living", func() string { // 100 ms are promised, to a machine that has nothing else to do
		res, err := http.Get("http://" + r.addr + "/livez")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return res.Status
		}
		return ""
	})
	if why := r.ready(); !strings.HasPrefix(why, "503 ") || !strings.Contains(why, "reason") {
		t.Errorf("without a database /readyz is %q", why)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.waitReady(30 * time.Second)
	s := c.subscribe(0, "room:1")
	book := newLedger()
	book.mustPost(r, "room:1")
	c.settle(book, s)
	r.term()
}

// Where LISTEN is swallowed, as by a pooler in transaction mode, the replica says so and never becomes ready.
// Another database does the same as such a pooler: what is sent through the one does not arrive on the other.
func TestNotReadyBehindAPooler(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	other := newDatabase(t, server)
	execute(t, other, "CREATE SCHEMA unused")
	mine := newDatabase(t, server)
	c := newCluster(t, 2, options{url: mine, idle: true, urls: func(i int) (string, string) {
		if i == 0 {
			return other, mine
		}
		return other, other // brings the other database's schema
	}})
	c.replicas[1].start()
	c.replicas[1].waitReady(30 * time.Second)
	c.replicas[0].start()
	until(t, 20*time.Second, "the reason", func() string {
		why := c.replicas[0].ready()
		if strings.Contains(why, "LISTEN_DATABASE_URL") && strings.HasPrefix(why, "503 ") {
			return ""
		}
		return "it is " + why
	})
}

// What is published on one replica, from SQL, by a client, or by the command reaches the clients of all, and
// answers carry its place in the log.
func TestAMessageCrosses(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	a, b := c.subscribe(0, "chat:1"), c.subscribe(1, "chat:1")
	book := newLedger()
	started := time.Now()

	id, at := book.mustPost(c.replicas[0], "chat:1")
	a.waitFor("chat:1", id, 10*time.Second)
	b.waitFor("chat:1", id, 10*time.Second)
	if at.Epoch == "" || at.Offset == 0 || at.Offset >= 1<<53 {
		t.Errorf("the position is %+v", at)
	}

	id, err := book.insert(t.Context(), dial(t, c.url), "chat:1")
	if err != nil {
		t.Fatal(err)
	}
	a.waitFor("chat:1", id, 10*time.Second)
	b.waitFor("chat:1", id, 10*time.Second)

	id = book.id("client")
	_, err = a.client.Publish(t.Context(), "chat:1", fmt.Appendf(nil, `{"id":%q}`, id))
	book.note("chat:1", id, 0, err, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.waitFor("chat:1", id, 10*time.Second)

	id = book.id("command")
	out, errs, code := c.command(fmt.Sprintf(`{"id":%q}`, id), "publish", "chat:1", "-")
	if code != 0 {
		t.Fatalf("publish: %d %s", code, errs)
	}
	var offset uint64
	if _, err = fmt.Sscan(out, &offset); err != nil {
		t.Errorf("publish printed %q", out)
	}
	book.note("chat:1", id, offset, nil, 0)
	a.waitFor("chat:1", id, 10*time.Second)
	t.Logf("all four in %v", time.Since(started).Round(time.Millisecond))

	c.settle(book, a, b)
}

// Publishers everywhere, on several channels at once: one order for everybody.
func TestOneOrderForEverybody(t *testing.T) {
	heavy(t)
	c := newCluster(t, 2, options{})
	channels := []string{"room:1", "room:2", "room:3"}
	subs := []*subscriber{c.subscribe(0, channels...), c.subscribe(1, channels...), c.subscribe(0, "room:2"), c.subscribe(1, "room:3")}
	book := newLedger()
	var publishers sync.WaitGroup
	for i := range 8 {
		publishers.Go(func() {
			for n := range 60 {
				_, _, _ = book.post(c.replicas[(i+n)%2], channels[(i+n)%3]) // written down
			}
		})
	}
	f := c.flood(book, channels...)
	publishers.Wait()
	// Whoever joins in the middle sees an unbroken rest.
	for i := range 6 {
		subs = append(subs, c.subscribe(i%2, channels[i%3]))
	}
	// And whoever was away for a moment what it has missed.
	for _, s := range subs[:4] {
		s.cut()
	}
	for _, s := range subs[:4] {
		for channel := range s.subs {
			s.waitCount(channel, recovered, 1, 20*time.Second)
		}
	}
	f.stop()
	if _, failed := book.counts(); failed > 0 {
		t.Errorf("%d publishes failed", failed)
	}
	c.settle(book, subs...)
}

// A client that comes back, on the same replica or on another, gets what it missed.
func TestResume(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1", "room:2")
	book.mustPost(c.replicas[0], "room:1")
	for _, back := range []int{0, 1} {
		s.away()
		for i := range 250 {
			book.mustPost(c.replicas[i%2], fmt.Sprint("room:", 1+i%2))
		}
		s.prefer(c.replicas[back])
		s.begin()
	}
	c.settle(book, s)
	if s.count("room:1", recovered) != 2 || s.count("room:1", told) != 0 {
		t.Errorf("recovered %d times, told %d times", s.count("room:1", recovered), s.count("room:1", told))
	}
}

// More was missed than a recovery carries: the client is told, and goes on from the present.
func TestTooMuchMissed(t *testing.T) {
	heavy(t)
	c := newCluster(t, 1, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	s.away()
	// 11,000 small ones.
	conn := dial(t, c.url)
	var ids []string
	for range 11_000 {
		ids = append(ids, book.id("bulk"))
	}
	if _, err := conn.Exec(t.Context(), `SELECT forgewire.publish('room:1', jsonb_build_object('id', id)) FROM unnest($1::text[]) AS id`, ids); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		book.note("room:1", id, 0, nil, 0)
	}
	until(t, 30*time.Second, "the log having them", func() string {
		if n := query[int](t, c.url, "SELECT count(*) FROM forgewire.messages"); n < len(ids) {
			return fmt.Sprint(n)
		}
		return ""
	})
	until(t, 20*time.Second, "the replica having handed them on", func() string {
		r := dialRaw(t, c.replicas[0])
		r.connect("")
		at := r.must(`{"id":2,"subscribe":{"channel":"room:1"}}`).Subscribe
		r.close()
		if newest := query[uint64](t, c.url, "SELECT max(seq) FROM forgewire.messages"); at.Offset < newest {
			return fmt.Sprintf("it is at %d of %d", at.Offset, newest)
		}
		return ""
	})
	s.begin()
	if s.count("room:1", told) != 1 {
		t.Error("the client was not told")
	}
	c.settle(book, s)
}

// Positions that the log cannot vouch for: the client is told and told where it is now.
func TestPositionsThatAreNotGood(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{})
	r := c.replicas[0]
	first := r.mustPublish("room:1", body("m1"))
	last := r.mustPublish("room:1", body("m2"))
	base := query[uint64](t, c.url, "SELECT min(base) FROM forgewire.incarnations")
	retired := query[uint64](t, c.url, "SELECT retired FROM forgewire.log")

	raw := dialRaw(t, r)
	raw.connect("")
	n := 1
	try := func(name string, offset uint64, epoch string, good bool, missed int) {
		t.Helper()
		n++
		s := raw.must(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"room:1","recover":true,"offset":%d,"epoch":%q}}`, n, offset, epoch)).Subscribe
		if !s.WasRecovering || s.Recovered != good || len(s.Publications) != missed || s.Epoch != last.Epoch || s.Offset < last.Offset || !s.Recoverable {
			t.Errorf("%s: %+v", name, s)
		}
		n++
		raw.must(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"room:1"}}`, n))
	}
	until(t, 10*time.Second, "the replica having both", func() string {
		n++
		s := raw.must(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"room:1"}}`, n)).Subscribe
		n++
		raw.must(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"room:1"}}`, n))
		if s.Offset < last.Offset {
			return fmt.Sprint(s.Offset)
		}
		return ""
	})
	try("the present", last.Offset, last.Epoch, true, 0)
	try("one missed", first.Offset, last.Epoch, true, 1)
	try("all missed", base-1, last.Epoch, true, 2)
	try("from the future", last.Offset+1, last.Epoch, false, 0)
	try("from far in the future", veryFarOffset, last.Epoch, false, 0)
	try("retired", retired-1, last.Epoch, false, 0)
	try("the beginning of time", 0, last.Epoch, false, 0)
	try("another epoch", last.Offset, "another", false, 0)
	try("no epoch", last.Offset, "", false, 0)
	try("more than a signed number", 1<<63+last.Offset, last.Epoch, false, 0)
}

// A whole partition is retired: who was there before is told, with what it can still have.
func TestRetired(t *testing.T) {
	t.Parallel()
	// Not a copy: the numbers of one begin ahead of the clock, and a partition is not left before the clock has reached its end.
	c := newCluster(t, 2, options{url: emptyDatabase(t, sharedServer(t))})
	book := newLedger()
	s, fresh := c.subscribe(0, "room:1"), c.subscribe(1, "room:1")
	_, old := book.mustPost(c.replicas[0], "room:1")
	s.waitFor("room:1", "http-1", 10*time.Second)
	fresh.waitFor("room:1", "http-1", 10*time.Second)
	s.away()
	execute(t, c.url, "SELECT forgewire.rotate(now() + interval '1 day', 1 << 40)") // goes on in the next partition
	_, kept := book.mustPost(c.replicas[1], "room:1")
	until(t, 10*time.Second, "the clock reaching its end", func() string {
		if !query[bool](t, c.url, "SELECT forgewire.retire(clock_timestamp(), 1 << 40)") {
			return "nothing was retired"
		}
		return ""
	})
	if n := query[int](t, c.url, "SELECT count(*) FROM forgewire.messages WHERE seq = $1", int64(old.Offset)); n != 0 {
		t.Fatal("it is still there")
	}
	s.begin()
	until(t, 10*time.Second, "the client knowing", func() string {
		if s.count("room:1", told)+s.count("room:1", recovered) == 0 {
			return "it is not subscribed"
		}
		return ""
	})
	// Nothing after its position was retired: what was retired last is what it has.
	if s.count("room:1", told) != 0 {
		t.Error("a client that has everything up to what was retired was told that something is missing")
	}
	h, err := c.replicas[0].history("room:1", 10, nil, false)
	if err != nil || len(h.Publications) != 1 || h.Publications[0].Offset != kept.Offset {
		t.Errorf("history is %+v, %v", h, err)
	}
	_, err = c.replicas[0].history("room:1", 10, &position{old.Offset - 1, old.Epoch}, false)
	if e, ok := err.(*apiError); !ok || e.Code != 112 { //nolint:errorlint // it is never wrapped
		t.Errorf("history since a retired position: %v", err)
	}
	late := c.replicas[1] // one that has just started: the others still have in memory what was retired a moment ago
	late.term()
	late.start()
	late.waitReady(20 * time.Second)
	raw := dialRaw(t, late)
	raw.connect("")
	sub := raw.must(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"room:1","recover":true,"offset":%d,"epoch":%q}}`, old.Offset-1, old.Epoch)).Subscribe
	if sub.Recovered || !sub.WasRecovering || sub.Offset < kept.Offset {
		t.Errorf("a retired position: %+v", sub)
	}
}

// A replica that is behind takes a client that is ahead of it, and gives it nothing twice and nothing never.
func TestSubscribeOnAReplicaThatIsBehind(t *testing.T) {
	heavy(t)
	ways := newProxy(t, sharedServer(t).Port())
	database := newDatabase(t, sharedServer(t))
	c := newCluster(t, 2, options{url: database, urls: func(i int) (string, string) {
		if i == 1 {
			return database, ways.url(t, database) // it hears late, and reads at once
		}
		return database, database
	}})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	f := c.flood(book, "room:1")
	for range 4 {
		ways.delay(700 * time.Millisecond)
		during(t, 300*time.Millisecond)
		before := s.count("room:1", recovered)
		s.prefer(c.replicas[1])
		s.cut()
		s.waitCount("room:1", recovered, before+1, 20*time.Second)
		s.prefer(c.replicas[0])
		s.cut()
		s.waitCount("room:1", recovered, before+2, 20*time.Second)
		ways.heal()
	}
	f.stop()
	c.settle(book, s)
	if s.count("room:1", told) > 0 {
		t.Errorf("told %d times that something is missing", s.count("room:1", told))
	}
}

// SIGTERM tells clients to go elsewhere and ends with 0, and nothing is lost.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	f := c.flood(book, "room:1")
	s.waitCount("room:1", message, 20, 20*time.Second)
	c.replicas[0].term()
	s.waitCount("room:1", recovered, 1, 20*time.Second)
	f.stop()
	c.settle(book, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.closes) < 2 || s.closes[1] != 3001 {
		t.Errorf("the connection ended with %v, not with 3001", s.closes)
	}
}

// A second signal ends the process at once, whatever it waits for.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{env: []string{"FORGEWIRE_SHUTDOWN_TIMEOUT=60s"}})
	r := c.replicas[0]
	raw := dialRaw(t, r) // one that will not answer the close frame, since nobody reads
	raw.connect("")
	r.signal(terminate)
	until(t, 10*time.Second, "the replica draining", func() string {
		if why := r.ready(); !strings.Contains(why, "503") && !strings.Contains(why, "refused") {
			return "it is " + why
		}
		return ""
	})
	until(t, 10*time.Second, "the end at a second signal", func() string {
		if r.running() {
			r.signal(terminate) // again and again: one that comes before the first was handled counts as the first
			return "it drains"
		}
		return ""
	})
}

// The API's other methods, and the commands.
func TestServerAPI(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	r := c.replicas[0]
	s := c.subscribe(0, "room:1", "room:2")

	var broadcast struct {
		Responses []struct {
			Result position `json:"result"`
		} `json:"responses"`
	}
	err := r.call(t.Context(), "broadcast", map[string]any{"channels": []string{"room:1", "room:2"}, "data": body("b1")}, &broadcast)
	if err != nil || len(broadcast.Responses) != 2 || broadcast.Responses[1].Result.Offset <= broadcast.Responses[0].Result.Offset {
		t.Fatalf("broadcast: %+v, %v", broadcast, err)
	}
	s.waitFor("room:1", "b1", 10*time.Second)
	s.waitFor("room:2", "b1", 10*time.Second)

	status, reply, err := r.post(t.Context(), "batch", apiKey, []byte(`{"commands":[{"publish":{"channel":"room:1","data":{"id":"c1"}}},
		{"publish":{"channel":"","data":{"id":"c2"}}},{"nonsense":{}},{"publish":{"channel":"room:2","data":{"id":"c3"}}}]}`))
	if err != nil || status != http.StatusOK {
		t.Fatalf("batch: %d %s %v", status, reply, err)
	}
	var batch struct {
		Replies []struct {
			Publish *position `json:"publish"`
			Error   *apiError `json:"error"`
		} `json:"replies"`
	}
	if err = json.Unmarshal(reply, &batch); err != nil || len(batch.Replies) != 4 || batch.Replies[0].Publish == nil || batch.Replies[3].Publish == nil ||
		batch.Replies[1].Error == nil || batch.Replies[1].Error.Code != 107 || batch.Replies[2].Error == nil || batch.Replies[2].Error.Code != 104 {
		t.Errorf("batch: %s %v", reply, err)
	}
	s.waitFor("room:1", "c1", 10*time.Second)
	s.waitFor("room:2", "c3", 10*time.Second)

	h, err := c.replicas[1].history("room:1", 10, nil, true)
	if err != nil || len(h.Publications) != 2 || idOf(h.Publications[0].Data) != "c1" || idOf(h.Publications[1].Data) != "b1" {
		t.Errorf("history, newest first: %+v, %v", h, err)
	}
	page, err := c.replicas[1].history("room:1", 1, &position{h.Publications[1].Offset, h.Epoch}, false)
	if err != nil || len(page.Publications) != 1 || idOf(page.Publications[0].Data) != "c1" {
		t.Errorf("history since the first: %+v, %v", page, err)
	}
	if only, err := r.history("room:1", 0, nil, false); err != nil || len(only.Publications) != 0 || only.Offset < h.Publications[0].Offset {
		t.Errorf("history of nothing: %+v, %v", only, err)
	}

	var channels struct {
		Channels map[string]struct {
			NumClients int `json:"num_clients"`
		} `json:"channels"`
	}
	if err = r.call(t.Context(), "channels", map[string]any{}, &channels); err != nil || channels.Channels["room:1"].NumClients != 1 {
		t.Errorf("channels: %+v, %v", channels, err)
	}
	var info struct {
		Nodes []struct {
			NumClients int `json:"num_clients"`
		} `json:"nodes"`
	}
	if err = r.call(t.Context(), "info", map[string]any{}, &info); err != nil || len(info.Nodes) == 0 || info.Nodes[0].NumClients != 1 {
		t.Errorf("info: %+v, %v", info, err)
	}
}

// The commands work beside the replicas, and what they print can be used.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{})
	if out, _, code := c.command("", "version"); code != 0 || !strings.HasPrefix(out, "forgewire ") {
		t.Errorf("version: %d %q", code, out)
	}
	if _, errs, code := c.command("", "migrate"); code != 0 {
		t.Errorf("migrate: %d %s", code, errs)
	}
	if _, errs, code := c.command("", "publish", "room:1", "not JSON"); code != 1 || strings.Count(strings.TrimSpace(errs), "\n") != 0 {
		t.Errorf("publish of nonsense: %d %q", code, errs)
	}
	if _, _, code := c.command("", "publish"); code != 2 {
		t.Errorf("publish of nothing: %d", code)
	}
	first, _, _ := c.command("", "publish", "room:1", `{"id":"one"}`)
	second, _, _ := c.command("", "publish", "room:1", `{"id":"two"}`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tail := newCommand(ctx, t, c, "tail", "room:1", "--since", strings.TrimSpace(first))
	line, err := tail.ReadString('\n')
	if err != nil && err != io.EOF || !strings.Contains(line, strings.TrimSpace(second)) || !strings.Contains(line, "two") {
		t.Errorf("tail: %q %v", line, err)
	}

	token, errs, code := c.command("", "token", "ann", "--ttl", "1m")
	if code != 0 {
		t.Fatalf("token: %s", errs)
	}
	s := c.subscriber(0, centrifuge.Config{Token: strings.TrimSpace(token)}, "dm#ann")
	s.begin()
}
