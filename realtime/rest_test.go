package realtime

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// connections counts those to a database but for the one that asks.
func connections(t *testing.T, conn *pgx.Conn) (n int) {
	t.Helper()
	err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A replica that nobody uses has no connection to the database, is ready, and wakes for whoever comes: with what was
// missed for a client that resumes, what was published from SQL included, and without it for one that is new.
func TestRest(t *testing.T) {
	t.Parallel()
	u := dbtest.New(t)
	conn := must(pgx.Connect(t.Context(), u))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	r := newTestReplica(t, u, func(c *Config) {
		c.IdleRelease = 100 * time.Millisecond
		c.Pool.Close()
		c.Pool = must(db.NewPool(context.Background(), db.PoolConfig{URL: u}))
		t.Cleanup(c.Pool.Close)
	})
	const within = 20 * time.Second
	rests := func() {
		t.Helper()
		eventually(t, within, "the replica has let go", func() bool { return r.node.rest.resting() && connections(t, conn) == 0 })
	}

	before := openStream(t, "GET", r.url("/events/a"), "")
	before.event()
	eventually(t, within, "it has a position", func() bool { return r.node.Epoch("") != "" })
	at := r.node.hub.in[0].position()
	before.cancel()
	rests()
	if err := r.node.Ready(t.Context()); err != nil || connections(t, conn) != 0 {
		t.Errorf("it is ready, and asked for that it asks nobody: %v", err)
	}

	// Nobody hears of these.
	for i := range 3 {
		if _, err := conn.Exec(t.Context(), "SELECT forgewire.publish('a', to_jsonb($1::int))", i); err != nil {
			t.Fatal(err)
		}
	}
	// A request wakes it, and what waited in the outbox is moved.
	done := r.node.Use(t.Context())
	eventually(t, within, "the outbox is empty", func() bool {
		var n int
		return conn.QueryRow(t.Context(), "SELECT count(*) FROM forgewire.outbox").Scan(&n) == nil && n == 0
	})
	done()
	rests()

	fresh := openStream(t, "GET", r.url("/events/a"), "")
	fresh.event()
	fresh.event() // where it begins
	resumed := openStream(t, "GET", r.url("/events/a"), "", "Last-Event-ID", eventID(at.Epoch, at.Offset))
	resumed.event()
	if _, err := r.node.Publish(t.Context(), Message{Channel: "a", Data: []byte("3")}); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if e := resumed.event(); !strings.HasSuffix(e, fmt.Sprintf("data: %d\n", i)) {
			t.Errorf("message %d: %q", i, e)
		}
	}
	if e := fresh.event(); !strings.HasSuffix(e, "data: 3\n") {
		t.Errorf("a new client got %q", e)
	}
	if r.node.rest.resting() {
		t.Error("it rests while there are clients")
	}
	fresh.cancel()
	resumed.cancel()
	rests()
}

// A replica of several logs lets go of what brought messages from one to another, too.
func TestRestOfSeveralLogs(t *testing.T) {
	t.Parallel()
	urls := logs(t, 2)
	conn := must(pgx.Connect(t.Context(), urls[0]))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	r := newTestReplica(t, urls[0], func(c *Config) { c.IdleRelease, c.Logs = 100*time.Millisecond, furtherLogs(t, urls[1:]) })
	done := r.node.Use(t.Context())
	channel := channelIn(1, 2)
	must(conn.Exec(t.Context(), "SELECT forgewire.publish($1, '1')", channel))
	eventually(t, 20*time.Second, "it was forwarded", func() bool { return len(content(t, urls[1], channel)) == 1 })
	done()
	eventually(t, 20*time.Second, "the replica has let go", func() bool { return r.node.rest.resting() && connections(t, conn) == 0 })
}

// Strangers wake nobody: not by connections on which nothing is said or a wrong token is, not by requests of other
// sites or of what is not there, and not by commands for connections that are made up.
func TestStrangersWakeNobody(t *testing.T) {
	t.Parallel()
	u := dbtest.New(t)
	conn := must(pgx.Connect(t.Context(), u))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	r := newTestReplica(t, u, func(c *Config) { c.IdleRelease, c.AllowAnonymous = 100*time.Millisecond, false })
	const within = 20 * time.Second
	rests := func() {
		t.Helper()
		eventually(t, within, "the replica has let go", func() bool { return r.node.rest.resting() && connections(t, conn) == 0 })
	}
	rests()

	silent := dialRaw(t, r, "")
	refused := dialRaw(t, r, "")
	if err := refused.frame(opText, `{"id":1,"connect":{"token":"no.such.token"}}`); err != nil {
		t.Fatal(err)
	}
	if code := refused.closed(); code != disconnectInvalidToken.Code {
		t.Errorf("a wrong token: %d", code)
	}
	for _, test := range []struct {
		method, path, body string
		header             []string
	}{
		{"GET", "/connection/websocket", "", nil},
		{"GET", "/connection/websocket", "", []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Origin", "https://evil.test"}},
		{"GET", "/events/a", "", nil},
		{"GET", "/events/a?token=no.such.token", "", nil},
		{"GET", "/events/a", "", []string{"Origin", "https://evil.test"}},
		{"POST", "/connection/http_stream", `{"id":1,"connect":{"token":"x"}}`, nil},
		{"POST", "/connection/sse", "", nil},
		{"GET", "/nothing", "", nil},
	} {
		if s := openStream(t, test.method, r.url(test.path), test.body, test.header...); s.resp.StatusCode == 200 {
			s.reply() // that it is over
		}
		if !r.node.rest.resting() || connections(t, conn) != 0 {
			t.Fatalf("%s %s %v woke the replica", test.method, test.path, test.header)
		}
	}
	id := "3c9f4a3e-0000-4000-8000-000000000000"
	if status, why := emulate(t, r, id, id, "{}"); status != 404 {
		t.Errorf("a session that is made up: %d %s", status, why)
	}
	rests()
	if !r.node.rest.resting() {
		t.Fatal("a session that is made up woke the replica")
	}

	// The one that was silent says who it is.
	if err := silent.frame(opText, fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, hs(joe()))); err != nil {
		t.Fatal(err)
	}
	if _, got, err := readFrame(silent.r); err != nil || !strings.Contains(string(got), `"client"`) {
		t.Errorf("somebody: %s, %v", got, err)
	}
	if r.node.rest.resting() {
		t.Error("it rests while there is somebody")
	}
	eventually(t, within, "a lease", r.node.presence.leased.Load)
	_ = silent.conn.Close()
	rests()
}

// While it wakes and the database is away, clients wait only so long; then they are served like any others then.
func TestRestWithoutDatabase(t *testing.T) {
	t.Parallel()
	x := newRest(time.Millisecond, func() bool { return false })
	x.end() // it has started
	eventually(t, time.Second, "it rests", func() bool { return x.begin() != nil })
	x.use()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	x.wait(ctx)
	if ctx.Err() == nil {
		t.Error("nobody woke it, and nobody waited")
	}
	x.end()
	x.wait(t.Context())
	if x.begin() != nil {
		t.Error("it rests while it is used")
	}
}

// A client's arrival makes a replica that has heard nothing for a while ask whether its connection to the database is
// alive: it may have been suspended.
func TestDoubt(t *testing.T) {
	t.Parallel()
	u := dbtest.New(t)
	conn := must(pgx.Connect(t.Context(), u))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	r := newTestReplica(t, u, nil)
	asked := func() (at time.Time) {
		err := conn.QueryRow(t.Context(), `SELECT query_start FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'forgewire listen'`).Scan(&at)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	eventually(t, 20*time.Second, "it listens", func() bool { return r.node.Ready(t.Context()) == nil })
	first := asked()
	eventually(t, 20*time.Second, "it asked by itself", func() bool { return asked().After(first) })
	before := asked()
	pause(t.Context(), doubtAfter+50*time.Millisecond) // and will not again for some seconds
	dialRaw(t, r, "").connect()
	eventually(t, 2*time.Second, "it asked for the client", func() bool { return asked().After(before) })
	before = asked()
	dialRaw(t, r, "").connect()
	dialRaw(t, r, "").connect()
	if after := asked(); after.After(before) && after.Sub(before) < doubtAfter {
		t.Error("it asks for each of many clients")
	}
}

// Old clients are told to reconnect, those that came together not all at once.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		age    time.Duration
		jitter float64
		want   int
	}{{time.Hour, 0, 3240}, {time.Hour, 1, 3600}, {time.Hour, 0.5, 3420}, {time.Millisecond, 1, 1}} {
		if got := lifetime(c.age, c.jitter); got != c.want {
			t.Errorf("lifetime(%v, %v) = %d, want %d", c.age, c.jitter, got, c.want)
		}
	}
	r := newTestReplica(t, dbtest.New(t), func(c *Config) { c.MaxConnectionAge = 2 * time.Second })
	s := dialRaw(t, r, "")
	s.connect()
	e := openStream(t, "GET", r.url("/events/a"), "")
	e.event()
	e.event()
	if code := s.closed(); code != disconnectOld.Code {
		t.Errorf("closed with %d", code)
	}
	if end := e.event(); !strings.Contains(end, "event: end") || !strings.Contains(end, "3011") {
		t.Errorf("the stream's end %q", end)
	}
	e.ended()
}
