package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"forgewire/infra/devstack"
)

// newPgbouncer starts a pooler in transaction mode before a server, with few enough connections that clients share
// them.
func newPgbouncer(t *testing.T, server *devstack.Server) *program {
	t.Helper()
	path := install(t, "pgbouncer")
	p := &program{t: t, name: "pgbouncer", port: freePort(t), log: &logBuffer{}}
	users := place(t, "users.txt", `"postgres" ""`)
	config := place(t, "pgbouncer.ini", fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
`, server.Port(), p.port, users))
	p.args = []string{path, "-q", config}
	p.start()
	return p
}

// through is a database's address by way of another port of this machine.
func (p *program) through(databaseURL string, parameters ...string) string {
	p.t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		p.t.Fatal(err)
	}
	u.Host = p.addr()
	q := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		q.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// The pool behind a pooler in transaction mode, the listener direct: everything works, also over a restart of the
// pooler.
func TestBehindPgbouncer(t *testing.T) {
	heavy(t)
	server := sharedServer(t)
	pooler := newPgbouncer(t, server)
	database := newDatabase(t, server)
	c := newCluster(t, 2, options{url: database, urls: func(int) (string, string) { return pooler.through(database), database }})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	// The writer's own driver prepares statements, which this is to keep it from.
	f := c.floodThrough(book, pooler.through(database, "default_query_exec_mode", "cache_describe"), "room:1", "room:2")
	until(t, 30*time.Second, "twenty messages through the pooler", func() string {
		if acked, _ := book.counts(); acked < 20 {
			return fmt.Sprintf("%d", acked)
		}
		return ""
	})
	progress(c, book, subs, 30*time.Second)
	if acked, failed := book.counts(); failed > 0 {
		t.Errorf("%d acknowledged, %d not: %v", acked, failed, book.why)
	}
	pooler.stop()
	during(t, 300*time.Millisecond)
	pooler.start()
	progress(c, book, subs, 30*time.Second)
	f.stop()
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
	names := query[[]string](t, database, `SELECT array_agg(DISTINCT application_name ORDER BY application_name) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'forgewire%'`)
	for _, want := range []string{"forgewire", "forgewire drain", "forgewire listen"} {
		if !strings.Contains(strings.Join(names, ","), want) {
			t.Errorf("%v has no %q", names, want)
		}
	}
	if n := query[int](t, database, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'forgewire'"); n > 4 {
		t.Errorf("%d connections of the pool, past the pooler", n)
	}
}

// A listener behind a pooler in transaction mode hears nothing; that must not go unseen.
func TestListenerBehindPgbouncer(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	pooler := newPgbouncer(t, server)
	database := emptyDatabase(t, server)
	wrong := pooler.through(database)
	c := newCluster(t, 1, options{url: database, idle: true, urls: func(int) (string, string) { return wrong, wrong }})
	if _, stderr, code := c.command("", "migrate"); code != 0 {
		t.Fatal(stderr)
	}
	r := c.replicas[0]
	r.start()
	until(t, 30*time.Second, "the reason in /readyz", func() string {
		why := r.ready()
		if !strings.Contains(why, "503") || !strings.Contains(why, "pooler") {
			return why
		}
		return ""
	})
}
