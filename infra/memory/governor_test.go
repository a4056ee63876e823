package memory

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		now     Level
		percent float64
		fresh   bool
		want    Level
	}{
		{Calm, 69, true, Calm},
		{Calm, 84, false, Calm}, // it may be garbage
		{Calm, 70, true, Shrunk},
		{Calm, 85, false, Shed}, // over the collector's limit it is not
		{Shrunk, 66, true, Shrunk},
		{Shrunk, 64, false, Calm},
		{Shrunk, 90, true, Shed},
		{Shed, 81, true, Shed},
		{Shed, 79, true, Shrunk},
		{Shed, 66, false, Shrunk},
		{Shed, 10, true, Calm},
	} {
		if got := next(c.now, c.percent, c.fresh); got != c.want {
			t.Errorf("%v at %v %% (fresh %v): %v, want %v", c.now, c.percent, c.fresh, got, c.want)
		}
	}
}

// fake is a governor of 1,000 bytes.
func fake(t *testing.T) (*Governor, *atomic.Uint64, func() []float64) {
	t.Helper()
	var used atomic.Uint64
	g, err := New(Config{Logger: slog.New(slog.DiscardHandler),
		Limit: func() (uint64, error) { return 1000, nil }, Used: func() (uint64, error) { return used.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var shares []float64
	g.OnPressure(func(share float64) { mu.Lock(); defer mu.Unlock(); shares = append(shares, share) })
	return g, &used, func() []float64 { mu.Lock(); defer mu.Unlock(); s := shares; shares = nil; return s }
}

// What registered shrinks and grows with the level; a check acts at once, and the level ends with hysteresis.
func TestGovernor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, used, shares := fake(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = g.Run(ctx) })
		step := func(percent uint64, wait time.Duration, level Level, share ...float64) {
			t.Helper()
			used.Store(percent * 10)
			if wait > 0 {
				<-time.After(wait)
			} else {
				<-time.After(checkAge + 1)
				g.Check()
			}
			synctest.Wait()
			got := shares()
			if at := Level(g.level.Load()); at != level || len(got) != len(share) || len(share) > 0 && got[0] != share[0] {
				t.Errorf("at %d %%: %v, shares %v; want %v, %v", percent, at, got, level, share)
			}
		}
		step(50, lookEvery, Calm)
		step(75, lookEvery, Shrunk, shareShrunk)
		step(67, lookEvery, Shrunk)
		step(60, lookEvery, Calm, shareCalm)
		step(86, 0, Shed, shareShed) // by a check alone
		if !g.Shedding() || g.Reserve(100) || !g.Reserve(10) {
			t.Error("it does not shed, or sheds all")
		}
		g.Release(10)
		step(82, 2*freeEvery, Shed)
		step(72, 2*freeEvery, Shrunk, shareShrunk)
		if g.Shedding() {
			t.Error("it sheds on")
		}
		step(10, lookEvery, Calm, shareCalm)
		s := g.Stats()
		if s.Limit != 1000 || s.Used != 100 || s.Available != 900 || s.Percent != 10 || s.Level != "calm" || s.Refused != 2 || s.Freed == 0 || s.Process == 0 {
			t.Errorf("%+v", s)
		}
		cancel()
		wg.Wait()
	})
}

func TestReserve(t *testing.T) {
	g, _, _ := fake(t)
	if !g.Reserve(100) || !g.Reserve(25) || g.Reserve(1) {
		t.Error("an eighth of 1000 is not what may be reserved")
	}
	g.Release(100)
	if !g.Reserve(100) {
		t.Error("what was released is not free")
	}
	if s := g.Stats(); s.Reserved != 125 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// A kernel that does not answer must not make a replica refuse anybody.
func TestUnreadable(t *testing.T) {
	g, err := New(Config{Logger: slog.New(slog.DiscardHandler),
		Limit: func() (uint64, error) { return 1000, nil }, Used: func() (uint64, error) { return 0, errors.New("no") }})
	if err != nil {
		t.Fatal(err)
	}
	g.govern()
	if g.Shedding() || !g.Reserve(10) {
		t.Error("it refuses")
	}
}

func TestCgroups(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, c := range map[string]struct {
		fs   fstest.MapFS
		want uint64
	}{
		"v2": {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.current": file("1000\n"),
			"sys/fs/cgroup/a/b/memory.stat": file("anon 5\ninactive_file 300\nactive_file 7\n")}, 700},
		"v2, in a container": {fstest.MapFS{"proc/self/cgroup": file("0::/docker/xyz\n"), "sys/fs/cgroup/memory.current": file("1000\n"),
			"sys/fs/cgroup/memory.stat": file("inactive_file 2000\n")}, 0},
		"v1": {fstest.MapFS{"proc/self/cgroup": file("9:cpu:/\n4:memory:/x\n0::/\n"), "sys/fs/cgroup/memory/x/memory.usage_in_bytes": file("1000\n"),
			"sys/fs/cgroup/memory/x/memory.stat": file("inactive_file 1\ntotal_inactive_file 200\n")}, 800},
		"v1, in a container": {fstest.MapFS{"proc/self/cgroup": file("4:memory:/docker/xyz\n"), "sys/fs/cgroup/memory/memory.usage_in_bytes": file("1000"),
			"sys/fs/cgroup/memory/memory.stat": file("cache 1\n")}, 1000},
	} {
		g, ok := findGroup(c.fs)
		if !ok {
			t.Errorf("%s: not found", name)
			continue
		}
		if used, err := g.used(); err != nil || used != c.want {
			t.Errorf("%s: %d, %v", name, used, err)
		}
	}
	for name, fs := range map[string]fstest.MapFS{
		"no cgroups": {},
		"no figures": {"proc/self/cgroup": file("0::/a\n")},
		"nonsense":   {"proc/self/cgroup": file("0::/a\nx\n"), "sys/fs/cgroup/a/memory.current": file("max"), "sys/fs/cgroup/a/memory.stat": file("")},
	} {
		if _, ok := findGroup(fs); ok {
			t.Errorf("%s: found", name)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	g, err := New(Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			g.Check()
		}
	})
}
