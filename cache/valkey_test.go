package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestTwoReplicasOneValkey(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	a, b := patient(t), patient(t)
	key, tag := unique(t), "tag:"+unique(t)
	put(t, a, key, "one", SetOptions{Tags: []string{tag, "other"}})
	mustBeLocal(t, a, key, "one")
	mustBeLocal(t, b, key, "one")

	put(t, b, key, "two", SetOptions{Tags: []string{tag, "other"}})
	mustBeLocal(t, a, key, "two")
	_ = a.Delete(ctx, key)
	eventually(t, func() bool { _, ok := b.Get(ctx, key); return !ok }, "b was not told of the delete")

	put(t, a, key, "three", SetOptions{Tags: []string{tag, "other"}})
	mustBeLocal(t, b, key, "three")
	eventually(t, func() bool { return a.Purge(ctx, tag) == nil }, "the purge never succeeds")
	mustMiss(t, a, key)
	eventually(t, func() bool { _, ok := b.Get(ctx, key); return !ok }, "b was not told of the purge")
	put(t, b, key, "four", SetOptions{Tags: []string{tag, "other"}})
	mustBeLocal(t, a, key, "four")

	s := a.Stats(ctx)
	if s.State != StateTracking || s.Server == nil || s.Server.MemoryBytes == 0 || s.Server.Clients == 0 || s.Server.MaxMemoryBytes == 0 {
		t.Errorf("stats: %+v, %+v", s, s.Server)
	}
}

func TestCompressionInTheValue(t *testing.T) {
	t.Parallel()
	c, other := patient(t), admin(t, sharedURL(t))
	key, value := unique(t), strings.Repeat("a prompt and its answer ", 4000)
	put(t, c, key, value, SetOptions{})
	size, err := tell(t, other, "STRLEN", valueName(key)).AsInt64()
	if err != nil || size == 0 || size > int64(len(value))/10 {
		t.Errorf("%d bytes are stored as %d, %v", len(value), size, err)
	}
	if saved := c.Stats(t.Context()).BytesSaved; saved < int64(len(value))/2 {
		t.Errorf("%d bytes saved", saved)
	}
	if ms, err := tell(t, other, "PTTL", valueName(key)).AsInt64(); err != nil || ms > time.Hour.Milliseconds() || ms < time.Minute.Milliseconds() {
		t.Errorf("it lives %d ms, %v", ms, err)
	}
}

// Replicas' clocks may be apart: a value is then fresh for longer or shorter by as much, but it goes when Valkey says so.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	c, other := patient(t), admin(t, sharedURL(t))
	for _, apart := range []struct {
		by    time.Duration // that the writer's clock is ahead
		found bool
	}{{time.Hour, true}, {-30 * time.Minute, true}, {-2 * time.Hour, false}} {
		key := fmt.Sprint(unique(t), apart.by)
		rec, _ := newRecord([]byte("v"), time.Hour, 0, nil)
		rec.stored = rec.stored.Add(apart.by)
		data, _ := c.remote.codec.encode(rec, nil)
		eventually(t, func() bool { // on a busy machine Valkey is too slow now and then
			tell(t, other, "SET", valueName(key), string(data), "PX", "2000")
			e, ok := c.Get(t.Context(), key)
			if ok && (!apart.found || e.Stale) {
				t.Fatalf("%s apart: %+v", apart.by, e)
			}
			return ok == apart.found
		}, "%s apart: it is not found", apart.by)
		eventually(t, func() bool { _, ok := c.Get(t.Context(), key); return !ok }, "%s apart: it stays", apart.by)
	}
}

func TestForeignValuesAreMisses(t *testing.T) {
	t.Parallel()
	c, other := patient(t), admin(t, sharedURL(t))
	for i, content := range []string{"", "hello", "\x1f\x8b gzip", string(bytes.Repeat([]byte{0xF0, 0x7E, 1}, 50))} {
		key := fmt.Sprint(unique(t), i)
		tell(t, other, "SET", valueName(key), content)
		mustMiss(t, c, key)
		if e, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, constant("v")); err != nil || e.Source != Filled {
			t.Errorf("%q: %+v, %v", content, e, err)
		}
		mustGet(t, c, key, "v")
	}
	tell(t, other, "LPUSH", valueName(unique(t)+"list"), "x")
	mustMiss(t, c, unique(t)+"list")
	if c.Stats(t.Context()).Corrupt == 0 {
		t.Error("they are not counted")
	}
}

func TestOneFillAcrossReplicas(t *testing.T) {
	t.Parallel()
	replicas := []*Cache{patient(t), patient(t), patient(t)}
	for round := range 5 {
		key := fmt.Sprint(unique(t), round)
		var fills atomic.Int64
		gate := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 150 {
			wg.Go(func() {
				e, err := replicas[i%3].Fetch(t.Context(), key, FetchOptions{TTL: time.Hour, Tags: []string{key}}, func(context.Context) ([]byte, error) {
					fills.Add(1)
					<-gate
					return []byte("v"), nil
				})
				if err != nil || string(e.Value) != "v" {
					t.Errorf("%+v, %v", e, err)
				}
			})
		}
		for _, c := range replicas {
			joined(t, c, key, 50)
		}
		eventually(t, func() bool { return fills.Load() > 0 }, "nobody fills")
		close(gate)
		wg.Wait()
		// A call that came too late, on a machine that is busy, makes a replica fill for itself.
		var late int64
		for _, c := range replicas {
			s := c.counters.snapshot()
			late += s.Errors + s.Skipped
		}
		if n := fills.Load(); n != 1 && late == 0 {
			t.Errorf("round %d: %d fills", round, n)
		}
	}
}

// The fill takes longer than a lease lives: the holder renews it.
func TestLeaseIsHeld(t *testing.T) {
	t.Parallel()
	a, b := patient(t), patient(t)
	key, filling, result := unique(t), make(chan struct{}), make(chan error)
	go func() {
		_, err := a.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, func(context.Context) ([]byte, error) {
			close(filling)
			<-time.After(3 * leaseLife)
			return []byte("a's"), nil
		})
		result <- err
	}()
	<-filling
	e, err := b.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, constant("b's"))
	if err != nil || string(e.Value) != "a's" || e.Source != Remote {
		t.Errorf("b got %q from %s, %v", e.Value, e.Source, err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// A holder that dies is replaced within a second; one that fails, at once.
func TestDeadLeaseIsReplaced(t *testing.T) {
	t.Parallel()
	c, other := patient(t), admin(t, sharedURL(t))
	var key string
	eventually(t, func() bool {
		key = unique(t) + rand.Text()
		tell(t, other, "SET", leaseName(valueName(key)), "somebody who just died", "PX", millis(leaseLife))
		before := c.Counted()
		began := time.Now()
		e, err := c.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, constant("v"))
		took := time.Since(began)
		if after := c.Counted(); after.Errors > before.Errors || after.Skipped > before.Skipped {
			return false // on a busy machine Valkey was too slow, and so nobody waited for it
		}
		if err != nil || e.Source != Filled || took > time.Second || took < leaseLife/2 {
			t.Errorf("%+v, %v, after %s", e, err, took)
		}
		return true
	}, "Valkey is too slow all the time")
	mustGet(t, c, key, "v")
}

func TestFailedHolderIsReplaced(t *testing.T) {
	t.Parallel()
	a, b := patient(t), patient(t)
	key, filling, gate := unique(t), make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = a.Fetch(context.Background(), key, FetchOptions{TTL: time.Hour}, func(context.Context) ([]byte, error) {
			close(filling)
			<-gate
			return nil, errFill
		})
	}()
	<-filling
	done := make(chan Entry)
	go func() {
		e, err := b.Fetch(t.Context(), key, FetchOptions{TTL: time.Hour}, constant("b's"))
		if err != nil {
			t.Error(err)
		}
		done <- e
	}()
	joined(t, b, key, 1)
	close(gate)
	if e := <-done; string(e.Value) != "b's" {
		t.Errorf("b got %q", e.Value)
	}
}

// Many readers and writers of few keys: whoever reads after a write was answered, on
// the same replica, never sees an older value, and all agree in the end.
func TestReadersAndWriters(t *testing.T) {
	t.Parallel()
	writer := patient(t)
	readers := []*Cache{writer, patient(t), patient(t)}
	const keys, rounds = 4, 150
	var newest [keys]atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range readers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond): // two cores, and the server needs one
				}
				k := n % keys
				at := newest[k].Load()
				if e, ok := c.Get(t.Context(), fmt.Sprint(unique(t), k)); ok && c == writer {
					var got int64
					if _, err := fmt.Sscan(string(e.Value), &got); err != nil || got < at {
						t.Errorf("key %d: %q after %d was written", k, e.Value, at)
						return
					}
				}
			}
		})
	}
	for n := range rounds {
		for k := range keys {
			errors := writer.counters.errors.Load()
			writer.Set(t.Context(), fmt.Sprint(unique(t), k), []byte(fmt.Sprint(n)), SetOptions{TTL: time.Hour})
			if writer.counters.errors.Load() == errors {
				newest[k].Store(int64(n))
			}
		}
	}
	for k := range keys {
		put(t, writer, fmt.Sprint(unique(t), k), "1000000", SetOptions{})
	}
	for _, c := range readers {
		for k := range keys {
			mustBeLocal(t, c, fmt.Sprint(unique(t), k), "1000000")
		}
	}
	close(stop)
	wg.Wait()
}
