package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"forgewire/infra/devstack"
)

// forgetful loses, in a crash, what was committed last.
var forgetful = map[string]string{
	"synchronous_commit":     "off",
	"wal_writer_delay":       "10s",
	"wal_writer_flush_after": "1GB",
}

// accident is a cluster with a subscriber who will hold a message that is lost, one who is away at the time,
// and one who holds none.
type accident struct {
	*cluster
	book                *ledger
	holds, away, spared *subscriber
}

func newAccident(t *testing.T, o options) *accident {
	t.Helper()
	a := &accident{cluster: newCluster(t, 2, o), book: newLedger()}
	a.holds, a.spared, a.away = a.subscribe(0, "lost:1"), a.subscribe(1, "spared:1"), a.subscribe(1, "lost:1")
	// Everybody has a message of their channel that is safe.
	safe, _ := a.book.mustPost(a.replicas[0], "lost:1")
	a.holds.waitFor("lost:1", safe, 10*time.Second)
	a.away.waitFor("lost:1", safe, 10*time.Second)
	safe, _ = a.book.mustPost(a.replicas[1], "spared:1")
	a.spared.waitFor("spared:1", safe, 10*time.Second)
	a.flush()
	return a
}

// flush makes what is committed safe, also where commits do not wait for the disk.
func (c *cluster) flush() {
	c.t.Helper()
	execute(c.t, c.url, "SET synchronous_commit = on; CREATE TABLE flushed (); DROP TABLE flushed")
}

// doomed publishes messages that will be lost, from HTTP and from SQL, and waits until they have been seen.
func (a *accident) doomed() (ids []string) {
	a.t.Helper()
	for i := range 3 {
		id, _ := a.book.mustPost(a.replicas[i%2], "lost:1")
		ids = append(ids, id)
	}
	id, err := a.book.insert(a.t.Context(), dial(a.t, a.url), "lost:1")
	if err != nil {
		a.t.Fatal(err)
	}
	ids = append(ids, id)
	for _, id := range ids {
		a.holds.waitFor("lost:1", id, 10*time.Second)
		a.away.waitFor("lost:1", id, 10*time.Second)
	}
	return ids
}

// after demands what must hold after the doomed messages are gone.
func (a *accident) after(doomed []string) {
	a.t.Helper()
	for _, r := range a.replicas {
		r.waitReady(45 * time.Second)
	}
	log := readLog(a.t, a.url)
	for _, r := range log {
		for _, id := range doomed {
			if r.id == id {
				a.t.Fatalf("%s survived: the accident did not happen", id)
			}
		}
	}
	// What is published now arrives once, whichever way it comes.
	conn := dial(a.t, a.url)
	for i, channel := range []string{"lost:1", "spared:1"} {
		for n := range 3 {
			until(a.t, 30*time.Second, "a publish succeeding", func() string {
				if _, _, err := a.book.post(a.replicas[(i+n)%2], channel); err != nil {
					return err.Error()
				}
				return ""
			})
		}
		id, err := a.book.insert(a.t.Context(), conn, channel)
		if err != nil {
			a.t.Fatal(err)
		}
		until(a.t, 20*time.Second, "what was published from SQL arriving", func() string {
			if query[int](a.t, a.url, "SELECT count(*) FROM forgewire.messages WHERE data::jsonb->>'id' = $1", id) == 0 {
				return "it is not in the log"
			}
			return ""
		})
	}
	if a.away.client.State() == "disconnected" {
		a.away.begin()
	}
	a.holds.waitCount("lost:1", told, 1, 20*time.Second)
	a.away.waitCount("lost:1", told, 1, 20*time.Second)
	a.settleAs(a.book, true, a.holds, a.away, a.spared)
	for _, s := range []*subscriber{a.holds, a.away} {
		if n := s.count("lost:1", told); n > 2 {
			a.t.Errorf("%s was told %d times of one accident", s.name, n)
		}
	}
	if n := a.spared.count("spared:1", told); n > 0 {
		a.t.Errorf("who holds nothing that is lost was told %d times that something is missing", n)
	}
}

func start(t testing.TB, s *devstack.Server) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func stop(t testing.TB, s *devstack.Server) {
	t.Helper()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// tool runs one of PostgreSQL's programs.
func tool(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd, err := devstack.Command(t.Context(), program, args...)
	if err != nil {
		t.Skipf("%s: %v", program, err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, errs.String())
	}
	return string(out)
}

// holdWALWriter keeps the process that would flush the commits every 10 s, the longest that it can be told to
// wait, from doing so in the very moment before a crash.
func (a *accident) holdWALWriter() (pid int) {
	a.t.Helper()
	pid = query[int](a.t, a.url, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		a.t.Fatal(err)
	}
	return pid
}

// The whole server crashes and forgets commits that were acknowledged and seen.
func TestCrashForgetsCommits(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, forgetful)
	a := newAccident(t, options{server: server})
	a.holdWALWriter()
	ids := a.doomed()
	a.away.away()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	start(t, server)
	a.after(ids)
}

// One of the server's processes crashes: it recovers without a new start, and forgets too.
func TestWALWriterCrashForgetsCommits(t *testing.T) {
	variant(t)
	heavy(t)
	a := newAccident(t, options{server: ownServer(t, forgetful)})
	pid := a.holdWALWriter()
	ids := a.doomed() // its clients stay connected, and find out from the server alone
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the crash", func() string {
		if n, err := tryQuery[int](a.url, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walwriter' AND pid <> $1", pid); err != nil || n == 0 {
			return fmt.Sprint(n, err)
		}
		return ""
	})
	a.after(ids)
}

// The server's clock was an hour ahead when an incarnation began, and is right again when a crash forgets commits: the
// next one cannot take its numbers from the clock, and gives none out twice all the same.
func TestClockRightAgainAndCommitsForgotten(t *testing.T) {
	variant(t)
	heavy(t)
	wrong := newAccidents(t)
	if wrong == nil {
		missing(t, "no clock that is wrong: that takes Linux and gcc")
	}
	server := ownServer(t, forgetful)
	wrong.preload(t, server)
	a := newAccident(t, options{server: server})
	wrong.set(t, clockSeconds, 3600)
	stop(t, server)
	start(t, server)
	for _, r := range a.replicas {
		r.waitReady(45 * time.Second)
	}
	progress(a.cluster, a.book, []*subscriber{a.holds, a.away}, 30*time.Second)
	wrong.set(t, clockSeconds, 0)
	a.flush()
	a.holdWALWriter()
	ids := a.doomed()
	a.away.away()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	start(t, server)
	a.after(ids)
}

// Crash after crash, while everybody publishes.
func TestCrashesUnderLoad(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, forgetful)
	c := newCluster(t, 2, options{server: server})
	c.flush() // the schema
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	for range 3 {
		progress(c, book, subs, 30*time.Second)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		start(t, server)
	}
	progress(c, book, subs, 30*time.Second)
	f.stop()
	c.settleAs(book, true, subs...)
	log := map[string]bool{}
	for _, r := range readLog(t, c.url) {
		log[r.id] = true
	}
	lost := 0
	for _, s := range book.all {
		if s.acked && !log[s.id] {
			lost++
		}
	}
	t.Logf("%d acknowledged messages were lost", lost)
	if lost == 0 {
		t.Error("nothing was lost: the accident did not happen")
	}
}

// A clean restart loses nothing, and nobody is told otherwise.
func TestCleanRestart(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	book := newLedger()
	subs := crowd(c, "room:1", "room:2")
	f := c.flood(book, "room:1", "room:2")
	progress(c, book, subs, 30*time.Second)
	stop(t, server)
	start(t, server)
	progress(c, book, subs, 30*time.Second)
	f.stop()
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}

// An old copy of the data folder comes back.
func TestOldCopyRestored(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, nil)
	a := newAccident(t, options{server: server})
	stop(t, server)
	saved := server.Dir() + ".copy"
	if out, err := exec.Command("cp", "-a", server.Dir(), saved).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start(t, server)
	progress(a.cluster, a.book, []*subscriber{a.holds}, 30*time.Second)
	for _, r := range a.replicas {
		r.waitReady(30 * time.Second)
	}
	a.holds.waitSubscribed(20 * time.Second)
	ids := a.doomed()
	a.away.away()
	stop(t, server)
	if err := os.RemoveAll(server.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(saved, server.Dir()); err != nil {
		t.Fatal(err)
	}
	start(t, server)
	a.after(ids)
}

// dump saves the schema forgewire.
func dump(t testing.TB, databaseURL string) string {
	t.Helper()
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-dump-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "dump")
	tool(t, "pg_dump", "-Fc", "-n", "forgewire", "-f", file, databaseURL)
	return file
}

// A dump is restored into the running server.
func TestDumpRestored(t *testing.T) {
	heavy(t)
	a := newAccident(t, options{server: ownServer(t, nil)})
	file := dump(t, a.url)
	ids := a.doomed()
	a.away.away()
	execute(t, a.url, "DROP SCHEMA forgewire CASCADE")
	tool(t, "pg_restore", "-d", a.url, file)
	a.after(ids)
}

// The dump was taken while publishers from SQL were busy, so what it says of the drainer is that it is awake,
// and there is something in the outbox. Neither may be forgotten.
func TestBusyDumpRestored(t *testing.T) {
	variant(t)
	heavy(t)
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	book := newLedger()
	s := c.subscribe(0, "room:1")
	conn := dial(t, c.url)
	// The drainers hang, awake, with something to drain.
	execute(t, c.url, "SELECT forgewire.publish('other', '1')")
	until(t, 10*time.Second, "a drainer awake", func() string {
		execute(t, c.url, "SELECT forgewire.publish('other', '1')")
		for _, r := range c.replicas {
			r.pause()
		}
		if query[bool](t, c.url, drainerAwake) {
			return ""
		}
		for _, r := range c.replicas {
			r.resume()
		}
		return "it sleeps"
	})
	kept, err := book.insert(t.Context(), conn, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	file := dump(t, c.url)
	for _, r := range c.replicas {
		r.resume()
	}
	s.waitFor("room:1", kept, 10*time.Second)
	until(t, 20*time.Second, "the drainers sleeping", func() string {
		awake := query[bool](t, c.url, drainerAwake)
		recent := query[int](t, c.url, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forgewire drain'
			AND query_start > clock_timestamp() - interval '3 seconds'`)
		if awake || recent > 0 {
			return fmt.Sprintf("awake %v, %d at work", awake, recent)
		}
		return ""
	})
	before := len(s.messages("room:1"))
	execute(t, c.url, "DROP SCHEMA forgewire CASCADE")
	tool(t, "pg_restore", "-d", c.url, file)
	if !strings.Contains(tool(t, "pg_restore", "-a", "-t", "outbox", "-f", "-", file), kept) {
		t.Fatal("nothing was in the outbox: the accident did not happen")
	}
	id, err := book.insert(t.Context(), conn, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	s.waitFor("room:1", id, 20*time.Second)
	until(t, 20*time.Second, "what was in the outbox arriving", func() string {
		if n := query[int](t, c.url, "SELECT count(*) FROM forgewire.outbox"); n > 0 {
			return fmt.Sprintf("%d wait", n)
		}
		return ""
	})
	if got := s.messages("room:1")[before:]; len(got) != 2 {
		t.Errorf("after the restore it saw %v", got)
	}
}

// The dump is restored while everybody publishes, and not in one transaction, so appends come between its
// parts. No number may come again.
func TestPublishingIntoARestore(t *testing.T) {
	variant(t)
	heavy(t)
	a := newAccident(t, options{server: ownServer(t, nil)})
	file := dump(t, a.url)
	a.doomed()
	a.away.away()
	// The list of what is restored, in two halves: until the table that knows the log, and the rest.
	var first, rest []string
	half := &first
	for line := range strings.Lines(tool(t, "pg_restore", "-l", file)) {
		*half = append(*half, line)
		if strings.Contains(line, "TABLE DATA forgewire log ") {
			half = &rest
		}
	}
	if len(rest) == 0 {
		t.Fatal("no such table in the dump")
	}
	execute(t, a.url, "DROP SCHEMA forgewire CASCADE")
	for _, list := range [][]string{first, rest} {
		path := file + ".list"
		if err := os.WriteFile(path, []byte(strings.Join(list, "")), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd, err := devstack.Command(t.Context(), "pg_restore", "-d", a.url, "-L", path, file)
		if err != nil {
			t.Skip(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("pg_restore: %v: %s", err, out) // one of its rows may be there already: the operator sees it
		}
		for range 3 {
			_, _, err := a.book.post(a.replicas[0], "lost:1") // it may be refused
			t.Logf("a publish in between: %v", err)
		}
	}
	for _, r := range a.replicas {
		r.waitReady(30 * time.Second)
	}
	t.Logf("after the restore: head, newest message, newest incarnation: %s", query[string](t, a.url, `SELECT concat_ws(', ',
		(SELECT last_value FROM forgewire.head), (SELECT max(seq) FROM forgewire.messages), (SELECT max(base) FROM forgewire.incarnations))`))
	for range 5 {
		_, _, _ = a.book.post(a.replicas[0], "lost:1") // written down
	}
	given := map[uint64]string{}
	for _, s := range a.book.all {
		if first, twice := given[s.offset]; twice && s.acked && s.offset != 0 {
			t.Errorf("number %d was given to %s and to %s", s.offset, first, s.id)
		}
		given[s.offset] = s.id
	}
	// What such a restore brings back lies below what was published meanwhile, so nobody can be given it in
	// order. But what is published from now on reaches everybody.
	for i, s := range []*subscriber{a.holds, a.spared} {
		channel := []string{"lost:1", "spared:1"}[i]
		id, _ := a.book.mustPost(a.replicas[i], channel)
		s.waitFor(channel, id, 20*time.Second)
	}
}

// A standby that lags behind is promoted, and the replicas find it at the old address.
func TestStandbyPromoted(t *testing.T) {
	variant(t)
	heavy(t)
	primary := ownServer(t, nil)
	way := newProxy(t, primary.Port())
	database := newDatabase(t, primary)
	a := newAccident(t, options{url: database, urls: func(int) (string, string) {
		return way.url(t, database), way.url(t, database)
	}})
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-standby-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	tool(t, "pg_basebackup", "-D", data, "-d", primary.URL(), "-R", "-X", "stream", "-c", "fast")
	standby, err := devstack.StartPostgres(t.Context(), data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop(context.Background()) })
	there := func() string { return atDatabase(t, standby.URL(), filepath.Base(mustPath(t, database))) }
	safe, _ := a.book.mustPost(a.replicas[0], "spared:1")
	a.spared.waitFor("spared:1", safe, 10*time.Second)
	until(t, 20*time.Second, "the standby having it", func() string {
		n, err := tryQuery[int](there(), "SELECT count(*) FROM forgewire.messages WHERE data::jsonb->>'id' = $1", safe)
		if err != nil || n == 0 {
			return fmt.Sprint(n, err)
		}
		return ""
	})
	stop(t, standby) // what comes now it does not get
	ids := a.doomed()
	a.away.away()
	if err = primary.Kill(); err != nil {
		t.Fatal(err)
	}
	start(t, standby)
	way.lead(standby.Port()) // a standby: nobody may take it for the primary yet
	during(t, 500*time.Millisecond)
	if why := a.replicas[0].ready(); why == "" {
		t.Error("a replica is ready on a standby")
	}
	execute(t, standby.URL(), "SELECT pg_promote()")
	a.url = there()
	a.after(ids)
}
