package realtime

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// Thousands of clients that recover at once, from a database that is slow, leave the pool to other requests.
func TestRecoveriesLeaveThePoolUsable(t *testing.T) {
	t.Parallel()
	pool, err := db.NewPool(t.Context(), db.PoolConfig{URL: dbtest.New(t), MaxConns: maxTurns + 2, MaxWaiting: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l := NewLog(pool)
	m := appendN(t, l, "room:1", 2)
	since := Position{Offset: m[0].Offset, Epoch: must(readState(t.Context(), pool, m[0].Offset)).epoch}
	slow := must(pool.Begin(t.Context()))
	if _, err = slow.Exec(t.Context(), "LOCK forgewire.messages IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			got, err := l.recover(t.Context(), "room:1", since, m[1].Offset, kept{})
			if err != nil || len(got) != 1 {
				t.Errorf("%d messages, %v", len(got), err)
			}
		})
	}
	for deadline := time.Now().Add(5 * time.Second); db.PoolStats(pool).InUse < maxTurns+1; {
		if time.Now().After(deadline) {
			t.Fatal("the recoveries did not begin")
		}
		pause(t.Context(), time.Millisecond)
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = pool.Exec(ctx, "SELECT 1")
		if cancel(); err != nil {
			t.Errorf("another request: %v", err)
			break
		}
	}
	if err = slow.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	// Whoever leaves while it waits is not read for.
	for range maxTurns {
		l.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = l.recover(ctx, "room:1", since, m[1].Offset, kept{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
