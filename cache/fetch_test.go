package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var errFill = errors.New("the origin is away")

func constant(v string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(v), nil }
}

func failing(context.Context) ([]byte, error) { return nil, errFill }

// eachTier runs a test without Valkey and with it.
func eachTier(t *testing.T, test func(t *testing.T, c *Cache)) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, Config{}))
	})
	t.Run("valkey", func(t *testing.T) {
		t.Parallel()
		test(t, patient(t))
	})
}

// joined waits until n callers wait for the key's fill.
func joined(t *testing.T, c *Cache, key string, n int) {
	t.Helper()
	eventually(t, func() bool {
		c.flights.mu.Lock()
		defer c.flights.mu.Unlock()
		f := c.flights.open[valueName(key)]
		return f != nil && f.waiting == n
	}, "there are never %d callers waiting for %q", n, key)
}

func TestOneFillForAll(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		key := unique(t)
		var fills atomic.Int64
		gate := make(chan struct{})
		var wg sync.WaitGroup
		const callers = 200
		for range callers {
			wg.Go(func() {
				e, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, func(context.Context) ([]byte, error) {
					fills.Add(1)
					<-gate
					return []byte("v"), nil
				})
				if err != nil || string(e.Value) != "v" || e.TTL != time.Hour {
					t.Errorf("%+v, %v", e, err)
				}
			})
		}
		joined(t, c, key, callers)
		close(gate)
		wg.Wait()
		if n := fills.Load(); n != 1 {
			t.Errorf("%d fills", n)
		}
		mustBeLocal(t, c, key, "v")
		if s := c.Stats(t.Context()); s.Fills != 1 || s.Joined != callers-1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestFailedFillIsNotStored(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		key := unique(t)
		if _, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, failing); !errors.Is(err, errFill) {
			t.Errorf("got %v", err)
		}
		_, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, func(context.Context) ([]byte, error) { panic("oh") })
		if !errors.Is(err, ErrFillPanicked) || !strings.Contains(err.Error(), "fetch_test.go") {
			t.Errorf("got %v", err)
		}
		mustMiss(t, c, key)
		if e, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, constant("v")); err != nil || e.Source != Filled {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// A caller that leaves fails nobody else; the last one ends the fill.
func TestLeavers(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		key := unique(t)
		leader, leave := context.WithCancel(t.Context())
		gate, ended := make(chan struct{}), make(chan error, 2)
		fill := func(ctx context.Context) ([]byte, error) {
			select {
			case <-gate:
				return []byte("v"), nil
			case <-ctx.Done():
				ended <- ctx.Err()
				return nil, ctx.Err()
			}
		}
		results := make(chan error, 2)
		fetch := func(ctx context.Context) {
			_, err := c.Fetch(ctx, key, FetchOptions{TTL: time.Hour}, fill)
			results <- err
		}
		go fetch(leader)
		joined(t, c, key, 1)
		go fetch(t.Context())
		joined(t, c, key, 2)
		leave()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the leader got %v", err)
		}
		close(gate)
		if err := <-results; err != nil {
			t.Errorf("the follower got %v", err)
		}

		gate, key = make(chan struct{}), key+"2"
		alone, leave := context.WithCancel(t.Context())
		filling := make(chan struct{})
		inner := fill
		fill = func(ctx context.Context) ([]byte, error) { close(filling); return inner(ctx) }
		go fetch(alone)
		<-filling
		leave()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the fill ended with %v", err)
		}
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the last caller got %v", err)
		}
		fill = inner
		close(gate)
		fetch(t.Context())
		if err := <-results; err != nil {
			t.Errorf("the next caller got %v", err)
		}
	})
}

// What was deleted or purged while it was made is neither stored nor given to whoever
// asks afterwards.
func TestInvalidationDuringFill(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		for name, invalidate := range map[string]func(key string){
			"delete": func(key string) { _ = c.Delete(t.Context(), key) },
			"purge":  func(key string) { _ = c.Purge(t.Context(), "tag:"+key) }, // remembered, if not done at once
			"set": func(key string) {
				c.Set(t.Context(), key, []byte("set"), SetOptions{TTL: time.Hour})
			},
		} {
			key := unique(t) + name
			o := FetchOptions{TTL: time.Hour, Tags: []string{"tag:" + key}}
			filling, gate, result := make(chan struct{}), make(chan struct{}), make(chan error)
			go func() {
				_, err := c.Fetch(t.Context(), key, o, func(context.Context) ([]byte, error) {
					close(filling)
					<-gate
					return []byte("old"), nil
				})
				result <- err
			}()
			<-filling
			invalidate(key)
			next := make(chan Entry, 1)
			go func() {
				e, err := c.Fetch(t.Context(), key, o, constant("new"))
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				next <- e
			}()
			if name == "purge" { // with Valkey, the first fill has its lease still, and the second waits
				eventually(t, func() bool {
					c.flights.mu.Lock()
					defer c.flights.mu.Unlock()
					f := c.flights.open[valueName(key)]
					return len(next) == 1 || f != nil && c.local.valid(valueName(key), f.marks)
				}, "nobody fills anew")
			} else {
				eventually(t, func() bool { return len(next) == 1 }, "%s: the next caller waits", name)
			}
			close(gate)
			if e := <-next; string(e.Value) == "old" {
				t.Errorf("%s: the next caller got the old value", name)
			}
			if err := <-result; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if e, ok := c.Get(t.Context(), key); ok && string(e.Value) == "old" {
				t.Errorf("%s: the old value was stored", name)
			}
		}
	})
}

func TestStaleWhileRevalidate(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		key := unique(t)
		o := FetchOptions{TTL: 40 * time.Millisecond, StaleWhileRevalidate: time.Hour}
		put(t, c, key, "1", SetOptions{TTL: o.TTL, StaleFor: o.StaleWhileRevalidate})
		eventually(t, func() bool { e, ok := c.Get(t.Context(), key); return ok && e.Stale }, "it never is stale")
		var n atomic.Int64
		gate := make(chan struct{})
		fill := func(ctx context.Context) ([]byte, error) {
			n.Add(1)
			select {
			case <-gate:
				return []byte("2"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		began := time.Now()
		for range 10 {
			if e, err := c.Fetch(t.Context(), key, o, fill); err != nil || !e.Stale {
				t.Fatalf("%+v, %v", e, err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("stale entries took %s", took)
		}
		eventually(t, func() bool { return n.Load() == 1 }, "nobody refreshes")
		close(gate)
		eventually(t, func() bool {
			e, err := c.Fetch(t.Context(), key, o, fill)
			return err == nil && string(e.Value) != "1"
		}, "the refreshed value is not there")
	})
}

func TestStaleIfError(t *testing.T) {
	eachTier(t, func(t *testing.T, c *Cache) {
		key := unique(t)
		o := FetchOptions{TTL: 40 * time.Millisecond, StaleIfError: time.Hour}
		eventually(t, func() bool {
			e, ok := c.Get(t.Context(), key)
			if !ok { // a busy Valkey is a miss, and nothing is stored then
				if _, err := c.Fetch(t.Context(), key, o, constant("v")); err != nil {
					t.Fatal(err)
				}
			}
			return ok && e.Stale
		}, "it never is stale")
		if e, err := c.Fetch(t.Context(), key, o, failing); err != nil || !e.Stale || string(e.Value) != "v" {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, failing); !errors.Is(err, errFill) {
			t.Errorf("who did not ask for it got %v", err)
		}
		if e, err := c.Fetch(t.Context(), key, o, constant("w")); err != nil || string(e.Value) != "w" || e.Stale {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

func TestFetchAroundRun(t *testing.T) {
	t.Parallel()
	c, stop := startStoppable(t, Config{})
	gate, filling, result := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := c.Fetch(t.Context(), "a", FetchOptions{TTL: time.Hour}, func(context.Context) ([]byte, error) {
			close(filling)
			<-gate
			return []byte("v"), nil
		})
		result <- err
	}()
	<-filling
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	eventually(t, func() bool { c.flights.mu.Lock(); defer c.flights.mu.Unlock(); return c.flights.ended }, "it does not stop")
	select {
	case <-stopped:
		t.Error("Run did not wait for the fill")
	default:
	}
	close(gate)
	<-stopped
	if err := <-result; err != nil {
		t.Error(err)
	}
	if e, err := c.Fetch(t.Context(), "b", FetchOptions{TTL: time.Hour}, constant("v")); err != nil || string(e.Value) != "v" {
		t.Errorf("after Run: %+v, %v", e, err)
	}
}
