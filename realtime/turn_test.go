package realtime

import (
	"context"
	"errors"
	"fmt"
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

// A client that waits for its turn is not taken for dead, since nobody reads its pong; and when it really leaves, or is told
// to go, it does not keep its place.
func TestWhoLeavesWaitsForNoTurn(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", nil)
	must(n.Publish(t.Context(), message("room:1", 1)))
	n.hub.in[0].tail.reset(Position{}) // it knows nothing, so the log is asked
	turns := n.strands[0].log.turns
	for range maxTurns {
		turns <- struct{}{}
	}
	defer func() {
		for range maxTurns {
			<-turns
		}
	}()
	waiting := func() (count int) {
		for _, s := range n.hub.shards {
			s.mu.Lock()
			count += len(s.waits)
			s.mu.Unlock()
		}
		return count
	}
	ways := map[string]func(w *wire, c *client){"told to go": func(_ *wire, c *client) { c.disconnect(disconnectForced) }}
	if n.watcher != nil {
		ways["left"] = func(w *wire, _ *client) { _ = w.ws.CloseNow() }
	}
	for name, leave := range ways {
		w := joined(t, url, hs(joe()))
		w.send(fmt.Sprintf(`"subscribe":{"channel":"room:1","recover":true,"offset":1,"epoch":%q}`, n.Epoch("")))
		eventually(t, 20*time.Second, "it waits", func() bool { return waiting() == 1 })
		c := n.hub.clientsOf("joe", "")[0]
		for range pingInterval + 2*pongTimeout {
			c.shard.beat(time.Now())
		}
		if c.ended.Load() {
			t.Fatal("it was taken for dead")
		}
		leave(w, c)
		eventually(t, turnWait/2, name+": it waits no more", func() bool { return waiting() == 0 })
		_ = w.ws.CloseNow()
		eventually(t, 20*time.Second, name+": it is gone", func() bool { return n.Info().Clients == 0 })
	}
}
