package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answerWithin is how long a publish may wait for its answer, if only for an error, whatever happens.
const answerWithin = 12 * time.Second

// crowd is subscribers on both replicas.
func crowd(c *cluster, channels ...string) []*subscriber {
	return []*subscriber{c.subscribe(0, channels...), c.subscribe(1, channels...), c.subscribe(0, channels[0]), c.subscribe(1, channels[0])}
}

// progress waits until everybody sees a message that is published now: the fault is over. Who was told that
// something is missing may have missed one, so it publishes more than one.
func progress(c *cluster, book *ledger, subs []*subscriber, within time.Duration) {
	c.t.Helper()
	var channel string
	for channel = range subs[0].subs {
		break
	}
	var id string
	var again time.Time
	until(c.t, within, "everybody seeing what is published now", func() string {
		if time.Now().After(again) {
			made, _, err := book.post(c.replicas[0], channel)
			if err != nil {
				return err.Error()
			}
			id, again = made, time.Now().Add(3*time.Second)
		}
		for _, s := range subs {
			if s.subs[channel] != nil && !s.saying(channel, id) {
				s.mu.Lock()
				defer s.mu.Unlock()
				return fmt.Sprintf("%s did not see %s; errors %q", s.name, id, s.errors[max(0, len(s.errors)-3):])
			}
		}
		return ""
	})
}

// nobodyWasTold demands that nothing was missing for anybody: the log had everything all the time.
func nobodyWasTold(t *testing.T, subs []*subscriber) {
	t.Helper()
	for _, s := range subs {
		for channel := range s.subs {
			if n := s.count(channel, told); n > 0 {
				t.Errorf("%s was told %d times that something is missing on %s", s.name, n, channel)
			}
		}
	}
}

func TestPostgresKilled(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	for range 2 {
		progress(c, book, subs, 30*time.Second)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		during(t, 500*time.Millisecond)
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	progress(c, book, subs, 30*time.Second)
	f.stop()
	c.settle(book, subs...)
	book.bounded(t, answerWithin)
	nobodyWasTold(t, subs)
}

// A server that hangs keeps its connections and answers nothing.
func TestPostgresPaused(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	progress(c, book, subs, 30*time.Second)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	during(t, time.Second)
	for _, s := range subs[:2] {
		s.cut() // comes back while nobody can say what it missed
	}
	during(t, lasting(7*time.Second, 19*time.Second))
	if why := c.replicas[0].ready(); why == "" {
		t.Error("a replica is ready while its database hangs")
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	progress(c, book, subs, 45*time.Second)
	f.stop()
	c.settle(book, subs...)
	book.bounded(t, answerWithin)
	nobodyWasTold(t, subs)
}

func TestReplicaKilled(t *testing.T) {
	heavy(t)
	c := newCluster(t, 2, options{})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	for i := range 4 {
		progress(c, book, subs, 30*time.Second)
		r := c.replicas[i%2]
		r.kill()
		during(t, 300*time.Millisecond)
		r.start()
		r.waitReady(30 * time.Second)
	}
	progress(c, book, subs, 30*time.Second)
	f.stop()
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}

func TestListenerTerminated(t *testing.T) {
	heavy(t)
	c := newCluster(t, 2, options{})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	progress(c, book, subs, 30*time.Second)
	conn := dial(t, c.url)
	terminated := 0
	for range 12 {
		var n int
		err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE application_name = 'forgewire listen' AND datname = current_database()`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		terminated += n
		during(t, 200*time.Millisecond)
	}
	if terminated < 8 {
		t.Errorf("only %d listeners were found", terminated)
	}
	progress(c, book, subs, 30*time.Second)
	f.stop()
	if _, failed := book.counts(); failed > 0 {
		t.Errorf("%d publishes failed: the listener is none of their business", failed)
	}
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}

// freeze stops server processes, as a machine that hangs does, until the test ends or thaw is called.
func freeze(t *testing.T, databaseURL, applicationName string) (pids []int, thaw func()) {
	t.Helper()
	pids = query[[]int](t, databaseURL, `SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity
		WHERE application_name = $1 AND datname = current_database()`, applicationName)
	thaw = func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may be gone
		}
	}
	t.Cleanup(thaw)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	return pids, thaw
}

// The listener's connection is there and dead: only asking finds that out.
func TestListenerHangs(t *testing.T) {
	heavy(t)
	c := newCluster(t, 2, options{server: ownServer(t, nil)})
	book := newLedger()
	subs := crowd(c, "room:1")
	id, _ := book.mustPost(c.replicas[0], "room:1")
	for _, s := range subs {
		s.waitFor("room:1", id, 10*time.Second)
	}
	if pids, _ := freeze(t, c.url, "forgewire listen"); len(pids) != 2 {
		t.Fatalf("%d listeners", len(pids))
	}
	for range 10 {
		book.mustPost(c.replicas[1], "room:1")
	}
	progress(c, book, subs, 30*time.Second)
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}

// Every connection of the pool hangs, as after a failover whose old primary no longer answers. Clients come
// back meanwhile. It must be over within the deadlines, not when TCP gives up.
func TestPoolHangs(t *testing.T) {
	heavy(t)
	c := newCluster(t, 1, options{server: ownServer(t, nil)})
	r := c.replicas[0]
	book := newLedger()
	first := r.mustPublish("room:1", body("first"))
	book.note("room:1", "first", first.Offset, nil, 0)
	// Forty clients that must be told what they missed, from positions that only the log can judge.
	var clients []*rawClient
	for range 40 {
		raw := dialRaw(t, r)
		raw.connect("")
		clients = append(clients, raw)
	}
	book.mustPost(r, "room:1")
	ask := func(id int) {
		for _, raw := range clients {
			raw.send(text, fmt.Appendf(nil, `{"id":%d,"subscribe":{"channel":"room:%d","recover":true,"offset":%d,"epoch":%q}}`, id, id, first.Offset+1000, first.Epoch))
		}
	}
	// While nobody can read the log, they take as much of the pool as they may.
	lock := dial(t, c.url)
	tx, err := lock.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err = tx.Exec(t.Context(), "LOCK TABLE forgewire.messages IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ask(2)
	until(t, 20*time.Second, "the pool growing", func() string {
		n := query[int](t, c.url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forgewire' AND wait_event_type = 'Lock'")
		if n < 16 { // as many as may read the past at once
			return fmt.Sprint(n)
		}
		return ""
	})
	if err = tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, raw := range clients {
		if re, code, err := raw.next(20 * time.Second); err != nil || code != 0 || re.Error != nil {
			t.Fatalf("%+v %d %v", re, code, err)
		}
	}
	pids, _ := freeze(t, c.url, "forgewire")
	t.Logf("%d connections hang", len(pids))
	ask(3)
	until(t, 30*time.Second, "a publish succeeding", func() string {
		_, _, err := book.post(r, "room:1")
		if err != nil {
			return err.Error()
		}
		return ""
	})
	for _, raw := range clients {
		if _, _, err := raw.next(15 * time.Second); err != nil {
			t.Fatalf("no answer to a subscription: %v", err)
		}
	}
	s := c.subscribe(0, "room:1")
	c.settle(book, s)
	book.bounded(t, answerWithin)
}

func TestNetworkCut(t *testing.T) {
	variant(t)
	heavy(t)
	way := newProxy(t, sharedServer(t).Port())
	database := newDatabase(t, sharedServer(t))
	c := newCluster(t, 2, options{url: database, urls: func(i int) (string, string) {
		if i == 0 {
			return way.url(t, database), way.url(t, database)
		}
		return database, database
	}})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	progress(c, book, subs, 30*time.Second)

	way.cut()
	during(t, time.Second)
	way.mend()
	progress(c, book, subs, 30*time.Second)

	way.swallow()
	during(t, time.Second)
	subs[0].cut()
	during(t, lasting(7*time.Second, 19*time.Second))
	way.heal()
	progress(c, book, subs, 45*time.Second)

	f.stop()
	c.settle(book, subs...)
	book.bounded(t, answerWithin)
	nobodyWasTold(t, subs)
}

// Publishers' connections die in the middle of commits: what was acknowledged is there once, what was not is
// there once or not at all.
func TestCutInMidCommit(t *testing.T) {
	heavy(t)
	way := newProxy(t, sharedServer(t).Port())
	database := newDatabase(t, sharedServer(t))
	c := newCluster(t, 2, options{url: database, urls: func(int) (string, string) {
		return way.url(t, database), database // the listeners are spared
	}})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.floodThrough(book, way.url(t, database), "room:1", "room:2")
	progress(c, book, subs, 30*time.Second)

	// The server's side: the backend is terminated while it appends.
	conn := dial(t, database)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	terminated := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); <-tick.C {
		var n int
		err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
			AND (query LIKE '%forgewire.append%' OR query LIKE '%forgewire.publish%' OR query = 'commit')`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		terminated += n
	}
	// The network's side: the answer to a commit is what does not arrive.
	way.add(`{"name":"limit","type":"limit_data","stream":"downstream","attributes":{"bytes":1500}}`)
	during(t, 2*time.Second)
	way.heal()
	progress(c, book, subs, 30*time.Second)

	f.stop()
	_, failed := book.counts()
	t.Logf("%d backends terminated, %d publishes failed", terminated, failed)
	if terminated == 0 || failed == 0 {
		t.Error("nothing was cut in mid-commit")
	}
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}

// The replica that drains the outbox dies while publishers from SQL go on without a pause, so nobody rings:
// another one takes over.
func TestDrainingReplicaDies(t *testing.T) {
	heavy(t)
	server := ownServer(t, nil)
	execute(t, atDatabase(t, server.URL(), "postgres"), "CREATE ROLE replica_0 SUPERUSER LOGIN; CREATE ROLE replica_1 SUPERUSER LOGIN")
	database := newDatabase(t, server)
	c := newCluster(t, 2, options{url: database, urls: func(i int) (string, string) {
		u := strings.Replace(database, "//postgres@", fmt.Sprintf("//replica_%d@", i), 1)
		return u, u
	}})
	book := newLedger()
	s := c.subscribe(1, "room:1")
	conn := dial(t, c.url)
	awake := func() bool {
		var up bool
		if err := conn.QueryRow(t.Context(), drainerAwake).Scan(&up); err != nil {
			t.Fatal(err)
		}
		return up
	}
	until(t, 20*time.Second, "all drainers sleeping", func() string {
		var holders int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 2`).Scan(&holders)
		if err != nil || awake() || holders > 0 {
			return fmt.Sprintf("holders %d, %v", holders, err)
		}
		return ""
	})
	// Replica A wakes for a reason of its own: it has to look what was published while it did not listen.
	execute(t, c.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forgewire listen' AND usename = 'replica_0'")
	for deadline := time.Now().Add(20 * time.Second); !awake(); {
		if time.Now().After(deadline) {
			t.Fatal("replica A's drainer did not wake")
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(2 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			_, _ = book.insert(t.Context(), conn, "room:1") // written down
		}
	}()
	t.Cleanup(func() { stop(); <-done }) // before the connection is closed
	s.waitCount("room:1", message, 100, 20*time.Second)
	who := query[string](t, c.url, `SELECT coalesce(max(a.usename), 'nobody') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 2 AND l.granted`)
	t.Logf("%s drains", who)
	if who == "replica_1" {
		s.prefer(c.replicas[0])
		c.replicas[1].kill()
	} else {
		c.replicas[0].kill()
	}
	before := len(s.messages("room:1"))
	s.waitCount("room:1", message, before+200, 20*time.Second)
	stop()
	<-done
	c.settle(book, s)
}

// A subscriber that stops reading is disconnected as slow, the others do not notice, and when it comes back
// it has lost nothing.
func TestSlowSubscriber(t *testing.T) {
	heavy(t)
	c := newCluster(t, 1, options{})
	r := c.replicas[0]
	book := newLedger()
	fast := c.subscribe(0, "room:1")
	slow := dialRaw(t, r)
	slow.connect("")
	at := slow.must(`{"id":2,"subscribe":{"channel":"room:1"}}`).Subscribe.position

	type big struct {
		ID  string `json:"id"`
		Pad string `json:"pad"`
	}
	pad := strings.Repeat("x", 60<<10)
	post := func() {
		id := book.id("big")
		p, err := r.publish(t.Context(), "room:1", big{id, pad})
		book.note("room:1", id, p.Offset, err, 0)
		if err != nil {
			t.Fatal(err)
		}
		fast.waitFor("room:1", id, 10*time.Second)
	}
	clients := func() int {
		var channels struct {
			Channels map[string]struct {
				NumClients int `json:"num_clients"`
			} `json:"channels"`
		}
		if err := r.call(t.Context(), "channels", map[string]any{}, &channels); err != nil {
			t.Fatal(err)
		}
		return channels.Channels["room:1"].NumClients
	}
	// What the sockets take (a few MB), what the replica holds, and a little.
	for range 100 {
		post()
	}
	until(t, 60*time.Second, "the slow one gone", func() string {
		if n := clients(); n > 1 {
			post()
			return fmt.Sprint(n, " clients")
		}
		return ""
	})
	// What was on its way when it was disconnected, and why it was.
	code := 0
	for code == 0 {
		re, closed, err := slow.next(10 * time.Second)
		if err != nil {
			break // the connection was cut before the reason came through: allowed
		}
		code = int(closed)
		if re.Push != nil && re.Push.Pub != nil {
			at.Offset = re.Push.Pub.Offset
		}
	}
	if code != 0 && code != 3008 {
		t.Errorf("closed with %d", code)
	}
	missing := query[int](t, c.url, "SELECT count(*) FROM forgewire.messages WHERE seq > $1", int64(at.Offset))
	t.Logf("closed with %d, %d of %d were not sent", code, missing, len(fast.messages("room:1")))
	again := dialRaw(t, r)
	again.connect("")
	back := again.must(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"room:1","recover":true,"offset":%d,"epoch":%q}}`, at.Offset, at.Epoch)).Subscribe
	if want := int64(missing)*(60<<10) < 4<<20-100_000; back.Recovered != want || want && len(back.Publications) != missing {
		t.Errorf("recovered %v with %d of %d", back.Recovered, len(back.Publications), missing)
	}
	c.settle(book, fast)
}

// A client that was behind for a moment is a client like any other afterwards.
func TestOnceBehindIsNotForgotten(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{})
	r := c.replicas[0]
	pad := strings.Repeat("x", 100<<10)
	for i := range 40 { // a page: more than a socket takes at once, so that the rest waits in the replica
		r.mustPublish("room:1", map[string]string{"id": fmt.Sprint("big", i), "pad": pad})
	}
	raw := dialRaw(t, r)
	raw.connect("")
	raw.must(`{"id":2,"subscribe":{"channel":"room:1"}}`)
	raw.send(text, []byte(`{"id":3,"history":{"channel":"room:1","limit":1000}}`))
	during(t, 500*time.Millisecond)
	re, code, err := raw.next(20 * time.Second)
	for err == nil && re.Push != nil { // the last of them may come late
		re, code, err = raw.next(20 * time.Second)
	}
	if err != nil || code != 0 || re.History == nil || len(re.History.Publications) != 40 {
		t.Fatalf("history: %d %v %v", code, err, re.Error)
	}
	// Longer than the deadline of any write.
	published := make(chan time.Time, 1)
	go func() {
		during(t, 33*time.Second)
		published <- time.Now()
		_, _ = r.publish(context.Background(), "room:1", body("late")) // if not, it will be missed below
	}()
	re, code, err = raw.next(45 * time.Second)
	if err != nil || code != 0 || re.Push == nil || re.Push.Pub == nil || idOf(re.Push.Pub.Data) != "late" {
		t.Fatalf("a message half a minute later: %+v, closed with %d, %v", re, code, err)
	}
	if took := time.Since(<-published); took > 10*time.Second {
		t.Errorf("a message half a minute later took %v", took)
	}
}
