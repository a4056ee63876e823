package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLocalTier(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := start(t, Config{})
	mustMiss(t, c, "a")
	value := []byte("one")
	c.Set(ctx, "a", value, SetOptions{TTL: time.Hour, Tags: []string{"x", "y"}})
	value[0] = 'X' // the caller's own
	mustBeLocal(t, c, "a", "one")
	_ = c.Delete(ctx, "a")
	mustMiss(t, c, "a")

	c.Set(ctx, "a", []byte("two"), SetOptions{TTL: time.Hour, Tags: []string{"x", "y"}})
	c.Set(ctx, "b", []byte("three"), SetOptions{TTL: time.Hour})
	if err := c.Purge(ctx, "y"); err != nil {
		t.Error(err)
	}
	mustMiss(t, c, "a")
	mustBeLocal(t, c, "b", "three")
	c.Announced(nil)
	mustMiss(t, c, "b")
	if s := c.Stats(ctx); s.State != StateLocal || s.LocalHits < 2 || s.Misses != 4 || s.Sets != 3 || s.Server != nil {
		t.Errorf("stats: %+v", s)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	c := start(t, Config{})
	c.Set(t.Context(), "a", []byte("v"), SetOptions{TTL: 30 * time.Millisecond, StaleFor: 3 * time.Second})
	eventually(t, func() bool { e, ok := c.Get(t.Context(), "a"); return ok && e.Stale }, "it never is stale")
	eventually(t, func() bool { _, ok := c.Get(t.Context(), "a"); return !ok }, "it never expires")
	c.Set(t.Context(), "a", []byte("v"), SetOptions{})
	mustMiss(t, c, "a")
}

func TestWhatIsNotCached(t *testing.T) {
	t.Parallel()
	c := start(t, Config{LocalBytes: 64 << 20})
	c.Set(t.Context(), "large", make([]byte, MaxValueBytes+1), SetOptions{TTL: time.Hour})
	mustMiss(t, c, "large")
	c.Set(t.Context(), "tags", nil, SetOptions{TTL: time.Hour, Tags: make([]string, MaxTags+1)})
	mustMiss(t, c, "tags")
	long := strings.Repeat("k", 10*maxKeyBytes)
	c.Set(t.Context(), long, []byte("v"), SetOptions{TTL: time.Hour})
	mustGet(t, c, long, "v")
	mustMiss(t, c, long+"k")
}

func TestLocalIsBounded(t *testing.T) {
	t.Parallel()
	const bound = 1 << 20
	c := start(t, Config{LocalBytes: bound})
	for i := range 4000 {
		c.Set(t.Context(), fmt.Sprint("key", i), make([]byte, 1000), SetOptions{TTL: time.Hour})
	}
	eventually(t, func() bool { b, _ := c.local.size(); return b <= bound && b > bound/2 }, "the bound is not kept")
	fill := func() {
		for i := range 4000 {
			c.Set(t.Context(), fmt.Sprint("more", i), make([]byte, 1000), SetOptions{TTL: time.Hour})
		}
	}
	for _, share := range []float64{0.5, 0.1, 0.5, 1} { // as memory is short, shorter, and no longer
		most := int64(share * bound)
		c.Shrink(share)
		if b, _ := c.local.size(); b > most {
			t.Errorf("Shrink(%v) left %d of %d", share, b, most)
		}
		fill()
		eventually(t, func() bool { b, _ := c.local.size(); return b <= most && b > most/2 }, "the share does not bound what comes later")
	}
}

// What was on the way when its key or tag was invalidated must not become a copy.
func TestPutAfterInvalidation(t *testing.T) {
	t.Parallel()
	for name, invalidate := range map[string]func(*local){
		"key": func(l *local) { l.drop("key") },
		"tag": func(l *local) { l.forget(tagName("tag")) },
		"all": func(l *local) { l.clear() },
	} {
		l, err := newLocal(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(time.Hour)
		m := l.marks("key", []string{tagName("tag")})
		invalidate(l)
		l.put("key", &copied{marks: m, until: until})
		if _, ok := l.get("key", time.Now()); ok {
			t.Errorf("%s: it was kept", name)
		}
		l.put("key", &copied{marks: l.marks("key", []string{tagName("tag")}), until: until})
		if _, ok := l.get("key", time.Now()); !ok {
			t.Errorf("%s: the next one was not kept", name)
		}
		invalidate(l)
		if _, ok := l.get("key", time.Now()); ok {
			t.Errorf("%s: it is still served", name)
		}
	}
}

// A process that was frozen must not serve what it held, and must serve again later.
func TestSleep(t *testing.T) {
	t.Parallel()
	c := start(t, Config{})
	eventually(t, func() bool { return c.local.awake.Load() != nil }, "nobody watches")
	put(t, c, "a", "v", SetOptions{})
	entry, ok := c.local.copies.GetIfPresent(valueName("a"))
	if !ok {
		t.Fatal("no copy")
	}
	if _, ok := c.local.get(valueName("a"), time.Now().Add(overslept+watchEvery)); ok {
		t.Error("a copy was served right after waking")
	}
	// Put it back, as if nobody had asked, and let the watch wake up. A clock that was set back is as bad: what was to
	// live until then would live longer.
	for _, last := range []time.Time{time.Now().Add(-time.Hour), time.Now().Add(time.Hour).Round(0)} {
		c.local.copies.Set(valueName("a"), entry)
		eventually(t, func() bool {
			c.local.awake.Store(&last)
			_, ok := c.local.copies.GetIfPresent(valueName("a"))
			return !ok
		}, "the watch does not clear")
	}
	put(t, c, "a", "w", SetOptions{})
}

func TestReplicasWithoutValkeyAgree(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	all := new(bus).join(t, 2)
	a, b := all[0], all[1]
	fill := func(v string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(v), nil }
	}
	for _, c := range all { // a fill does not empty the others
		if _, err := c.Fetch(ctx, "k", FetchOptions{TTL: time.Hour, Tags: []string{"t"}}, fill("old")); err != nil {
			t.Fatal(err)
		}
	}
	mustBeLocal(t, a, "k", "old")
	mustBeLocal(t, b, "k", "old")
	b.Set(ctx, "k", []byte("new"), SetOptions{TTL: time.Hour, Tags: []string{"t"}})
	eventually(t, func() bool { _, ok := a.Get(ctx, "k"); return !ok }, "a still has the old value")
	mustBeLocal(t, b, "k", "new") // its own notice does not take it away
	if err := a.Delete(ctx, "k"); err != nil {
		t.Error(err)
	}
	mustMiss(t, b, "k") // told when Delete returned
	a.Set(ctx, "k", []byte("x"), SetOptions{TTL: time.Hour, Tags: []string{"t"}})
	if err := b.Purge(ctx, "t"); err != nil {
		t.Error(err)
	}
	mustMiss(t, a, "k") // told when Purge returned
}

func TestNoticesWaitForTheBus(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	joint := new(bus)
	all := joint.join(t, 2)
	a, b := all[0], all[1]
	put(t, b, "k1", "v", SetOptions{Fill: true})
	put(t, b, "stays", "v", SetOptions{Fill: true})
	joint.fail(errors.New("the bus is away"))
	if err := a.Delete(ctx, "k1"); err == nil {
		t.Error("Delete says that others know")
	}
	if err := a.Purge(ctx, "t"); err == nil {
		t.Error("Purge says that others know")
	}
	mustBeLocal(t, b, "k1", "v")
	joint.fail(nil)
	eventually(t, func() bool { _, ok := b.Get(ctx, "k1"); return !ok }, "the delete is lost")
	mustBeLocal(t, b, "stays", "v")

	// More than is remembered is everything.
	joint.fail(errors.New("the bus is away"))
	for i := range 2 * maxNotices {
		_ = a.Delete(ctx, fmt.Sprint("k", i))
	}
	joint.fail(nil)
	eventually(t, func() bool { _, ok := b.Get(ctx, "stays"); return !ok }, "an overflow empties nothing")
}

// A bus that is away is tried once in a while, not without end.
func TestNoticesRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &refusing{}
		n := newNotices(b, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.run(ctx) }()
		n.add("name")
		<-time.After(10*announceRetry + announceRetry/2) // of the bubble
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b.tries < 10 || b.tries > 13 {
			t.Errorf("tried %d times in ten seconds", b.tries)
		}
	})
}

// refusing is a Bus that is away.
type refusing struct{ tries int }

func (r *refusing) Announce(context.Context, string, []byte) error {
	r.tries++
	return errors.New("away")
}

// Who flushes is not told that others know while it is another one who is telling them, and may yet fail.
func TestNoticesOnTheirWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := slow{answer: make(chan error)}
		n := newNotices(b, slog.New(slog.DiscardHandler))
		first, second := make(chan error, 1), make(chan error, 1)
		n.queue([]string{"name"})
		go func() { first <- n.flush(t.Context()) }()
		synctest.Wait()
		go func() { second <- n.flush(t.Context()) }()
		synctest.Wait()
		b.answer <- errors.New("away")
		if err := <-first; err == nil {
			t.Error("what failed is told")
		}
		synctest.Wait()
		select {
		case err := <-second:
			t.Error("nobody was told, and it says", err)
		case b.answer <- nil: // it tries itself
			if err := <-second; err != nil {
				t.Error(err)
			}
		}
	})
}

// slow is a Bus that answers when it is told what.
type slow struct{ answer chan error }

func (s slow) Announce(context.Context, string, []byte) error { return <-s.answer }

func TestForeignNoticeEmpties(t *testing.T) {
	t.Parallel()
	c := start(t, Config{Bus: new(bus)})
	put(t, c, "a", "v", SetOptions{Fill: true})
	c.Announced([]byte{99, 1, 2})
	mustMiss(t, c, "a")
}

func FuzzNotice(f *testing.F) {
	f.Add(encodeNotice(make([]byte, senderBytes), []string{"fw:{ka}", "", "fw:tag:b"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		sender, names, err := decodeNotice(data)
		if err != nil {
			return
		}
		again, same, err := decodeNotice(encodeNotice(sender, names))
		if err != nil || string(again) != string(sender) || strings.Join(same, "\x00") != strings.Join(names, "\x00") {
			t.Errorf("%q became %q, %v", names, same, err)
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for _, cfg := range []Config{
		{},
		{Log: log, LocalBytes: -1},
		{Log: log, MaxConnections: -1},
		{Log: log, URL: "http://user:sesame@cache"},
		{Log: log, URL: "redis://:sesame@cache/x"},
	} {
		_, err := New(cfg)
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("New(%+v): %v", cfg, err)
		}
	}
}
