package cache

import (
	"bytes"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// quick checks what a cache that is away may cost: the first calls wait no longer than
// patience, and once it is known to be away, all together take next to nothing.
func quick(t *testing.T, c *Cache) {
	t.Helper()
	ctx := t.Context()
	const slack = 100 * time.Millisecond // for this machine, not for the cache
	for c.State() != StateUnavailable {
		began := time.Now()
		due := make(chan time.Duration, 1) // as late as all is here
		time.AfterFunc(patience, func() { due <- time.Since(began) })
		c.Get(ctx, "quick")
		if took := time.Since(began); took > <-due+slack {
			t.Fatalf("a first call took %s", took)
		}
	}
	var took []time.Duration
	for range 100 {
		began := time.Now()
		c.Get(ctx, "quick")
		c.Set(ctx, "quick", []byte("v"), SetOptions{TTL: time.Hour, Fill: true})
		if e, err := c.Fetch(ctx, "quick", FetchOptions{TTL: time.Hour}, constant("v")); err != nil || e.Source != Filled {
			t.Fatalf("%+v, %v", e, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	if usual := took[len(took)/2]; usual > 3*time.Millisecond {
		t.Errorf("three calls usually take %s", usual)
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	c := connected(t, server.URL())
	put(t, c, "a", "v", SetOptions{})
	mustBeLocal(t, c, "a", "v")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, ok := c.Get(t.Context(), "a"); return !ok }, "the copy outlives the server")
	quick(t, c)
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, StateTracking)
	put(t, c, "a", "w", SetOptions{})
}

func TestHung(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	c := connected(t, server.URL())
	put(t, c, "a", "v", SetOptions{})
	mustBeLocal(t, c, "a", "v")
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	paused := time.Now()
	// Nobody asks for anything but the copy: the pings alone must find out.
	eventually(t, func() bool { _, n := c.local.size(); return n == 0 }, "the copy is kept for ever")
	stale := time.Since(paused)
	t.Logf("a hung server's copies went after %s", stale)
	if bound := 2*pingGap + pingTimeout; stale > bound+3*time.Second {
		t.Errorf("copies were served for %s, the bound is %s", stale, bound)
	}
	quick(t, c)
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	resumed := time.Now()
	awaitState(t, c, StateTracking)
	t.Logf("back after %s", time.Since(resumed))
	mustGet(t, c, "a", "v")
}

// Many callers at once meet a server that hangs: none waits longer, none queues.
func TestHungUnderLoad(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	c := connected(t, server.URL())
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 2000 {
		wg.Go(func() {
			if i%2 == 0 {
				c.Get(t.Context(), strings.Repeat("k", i%200))
			} else {
				_, err := c.Fetch(t.Context(), strings.Repeat("f", i%200), FetchOptions{TTL: time.Hour}, constant("v"))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("2000 calls took %s", took)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, StateTracking)
}

func TestDeletesWhileAway(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	a, b := connected(t, server.URL()), connected(t, server.URL())
	put(t, a, "deleted", "old", SetOptions{})
	put(t, a, "purged", "old", SetOptions{Tags: []string{"tag"}})
	put(t, a, "replaced", "old", SetOptions{})
	put(t, a, "kept", "v", SetOptions{})
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	_ = a.Delete(t.Context(), "deleted")
	if err := a.Purge(t.Context(), "tag"); err == nil {
		t.Error("Purge says that it is done")
	}
	a.Set(t.Context(), "replaced", []byte("new"), SetOptions{TTL: time.Hour})
	for _, key := range []string{"deleted", "purged", "replaced"} {
		mustMiss(t, a, key)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cache{a, b} {
		awaitState(t, c, StateTracking)
		for _, key := range []string{"deleted", "purged"} {
			eventually(t, func() bool { _, ok := c.Get(t.Context(), key); return !ok }, "%s is back", key)
		}
		eventually(t, func() bool { e, ok := c.Get(t.Context(), "replaced"); return !ok || string(e.Value) != "old" }, "the replaced value is back")
		mustGet(t, c, "kept", "v")
	}
	eventually(t, func() bool { return a.Stats(t.Context()).Pending == 0 }, "something stays pending")
}

func TestPendingIsBounded(t *testing.T) {
	t.Parallel()
	var p pending
	names := make([]string, maxPending+1)
	for i := range names {
		names[i] = strings.Repeat("n", i%7) + string(rune(i+256))
	}
	if !p.add(names[:10]...) || p.add(names...) {
		t.Error("the bound is not kept")
	}
	batch, asOf, lost := p.some()
	if len(batch) != settleBatch || !lost {
		t.Errorf("%d names, lost: %t", len(batch), lost)
	}
	p.add(batch[0]) // again, while it is deleted
	p.done(batch, asOf)
	if !p.has(batch[0]) || p.has(batch[1]) || p.count.Load() != maxPending-settleBatch+1 {
		t.Errorf("%d are left", p.count.Load())
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, map[string]string{"maxmemory-policy": "noeviction"})
	c, other := connected(t, server.URL()), admin(t, server.URL())
	put(t, c, "old", "v", SetOptions{Tags: []string{"tag"}})
	put(t, c, "replaced", "v", SetOptions{})
	tell(t, other, "CONFIG", "SET", "maxmemory", "1")
	c.Set(t.Context(), "new", []byte("v"), SetOptions{TTL: time.Hour})
	mustMiss(t, c, "new")
	mustGet(t, c, "old", "v")
	if e, err := c.Fetch(t.Context(), "fetched", FetchOptions{TTL: time.Hour}, constant("v")); err != nil || string(e.Value) != "v" {
		t.Errorf("%+v, %v", e, err)
	}
	c.Set(t.Context(), "replaced", []byte("w"), SetOptions{TTL: time.Hour})
	eventually(t, func() bool { return c.Stats(t.Context()).Pending == 0 }, "the replaced value is not deleted")
	mustMiss(t, c, "replaced")
	eventually(t, func() bool { return c.Purge(t.Context(), "tag") == nil }, "a full cache cannot be purged")
	mustMiss(t, c, "old")
	tell(t, other, "CONFIG", "SET", "maxmemory", "0")
	put(t, c, "new", "v", SetOptions{})
	if s := c.Stats(t.Context()); s.Errors == 0 || s.State != StateTracking {
		t.Errorf("stats: %+v", s)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	c, other := connected(t, server.URL()), admin(t, server.URL())
	put(t, c, "a", "v", SetOptions{})
	tell(t, other, "REPLICAOF", "127.0.0.1", "1") // nobody is there: it keeps its data, and takes no writes
	mustGet(t, c, "a", "v")
	if e, err := c.Fetch(t.Context(), "b", FetchOptions{TTL: time.Hour}, constant("v")); err != nil || e.Source != Filled {
		t.Errorf("%+v, %v", e, err)
	}
	_ = c.Delete(t.Context(), "a")
	mustMiss(t, c, "a")
	tell(t, other, "REPLICAOF", "NO", "ONE")
	eventually(t, func() bool { return c.Stats(t.Context()).Pending == 0 }, "the delete is lost")
	if n, err := tell(t, other, "EXISTS", valueName("a")).AsInt64(); err != nil || n != 0 {
		t.Errorf("the deleted key exists: %d, %v", n, err)
	}
	put(t, c, "a", "w", SetOptions{})
}

// Other people's commands: a copy may not outlive them.
func TestOutsideChanges(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	c, other := connected(t, server.URL()), admin(t, server.URL())
	for _, command := range [][]string{
		{"FLUSHALL"}, {"DEL", valueName("a")}, {"SET", valueName("a"), "foreign"},
		{"PEXPIRE", valueName("a"), "1"}, {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"},
	} {
		put(t, c, "a", "v", SetOptions{Tags: []string{"tag"}})
		mustBeLocal(t, c, "a", "v")
		tell(t, other, command...)
		eventually(t, func() bool {
			e, ok := c.Get(t.Context(), "a")
			return !ok || e.Source == Remote
		}, "%v: the copy is still served", command)
	}
	put(t, c, "a", "v", SetOptions{Tags: []string{"tag"}})
	mustBeLocal(t, c, "a", "v")
	tell(t, other, "DEL", tagName("tag")) // what another replica's Purge does, or an eviction
	eventually(t, func() bool { _, ok := c.Get(t.Context(), "a"); return !ok }, "the purged copy is still served")
}

func TestAbsentAtTheStart(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	url := server.URL()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	c := start(t, Config{URL: url})
	quick(t, c)
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, StateTracking)
	put(t, c, "a", "v", SetOptions{})
}

// A server that takes connections and never says a word.
func TestMuteAtTheStart(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := start(t, Config{URL: "redis://" + ln.Addr().String()})
	quick(t, c)
	if s := c.Stats(t.Context()); s.Skipped == 0 || s.Server != nil {
		t.Errorf("stats: %+v", s)
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// A user who may not use CLIENT TRACKING, as on some managed servers.
func TestNoTracking(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	other := admin(t, server.URL())
	tell(t, other, "ACL", "SETUSER", "edge", "on", ">sesame", "~fw:*", "+@all", "-client|tracking")
	url := strings.Replace(server.URL(), "redis://", "redis://edge:sesame@", 1)
	var log lines
	c := start(t, Config{URL: url, Log: slog.New(slog.NewTextHandler(&log, nil))})
	awaitState(t, c, StateNoTracking)
	put(t, c, "a", "v", SetOptions{Tags: []string{"tag"}})
	mustBeLocal(t, c, "a", "v")
	changed := time.Now()
	tell(t, other, "DEL", valueName("a"))
	eventually(t, func() bool { _, ok := c.Get(t.Context(), "a"); return !ok }, "the copy lives on")
	if took := time.Since(changed); took > untrackedLife+500*time.Millisecond {
		t.Errorf("a deleted value was served for %s", took)
	}
	put(t, c, "b", "v", SetOptions{Tags: []string{"tag"}})
	_ = c.Delete(t.Context(), "b")
	mustMiss(t, c, "b")

	tell(t, other, "CLIENT", "KILL", "USER", "edge")
	put(t, c, "b", "w", SetOptions{})
	if n := log.count("no tracking"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	if log.count("sesame") > 0 {
		t.Error("the password is in the log")
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	tell(t, admin(t, server.URL()), "CONFIG", "SET", "requirepass", "sesame")
	var log lines
	c := start(t, Config{URL: strings.Replace(server.URL(), "redis://", "redis://:salami@", 1), Log: slog.New(slog.NewTextHandler(&log, nil))})
	quick(t, c)
	eventually(t, func() bool { return log.count("WRONGPASS") == 1 }, "nobody says why")
	if log.count("salami") > 0 {
		t.Error("the password is in the log")
	}
}

// One server that calls itself a cluster, behind one address: slots must be respected.
func TestCluster(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, map[string]string{"cluster-enabled": "yes"})
	tell(t, admin(t, server.URL()), "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	a, b := connected(t, server.URL()), connected(t, server.URL())
	for _, key := range []string{"plain", "}brace", "a}b{c", "{"} {
		put(t, a, key, "v", SetOptions{Tags: []string{"x", "y", "z"}})
		mustBeLocal(t, b, key, "v")
		eventually(t, func() bool {
			e, err := b.Fetch(t.Context(), key+"2", FetchOptions{TTL: time.Hour, Tags: []string{"x"}}, constant("w"))
			if err != nil || string(e.Value) != "w" {
				t.Fatalf("%+v, %v", e, err)
			}
			got, ok := a.Get(t.Context(), key+"2")
			return ok && string(got.Value) == "w"
		}, "%q is not found by the other replica", key+"2")
	}
	eventually(t, func() bool { return a.Purge(t.Context(), "x", "y") == nil }, "the purge fails")
	eventually(t, func() bool { _, ok := b.Get(t.Context(), "plain"); return !ok }, "b was not told")
}
