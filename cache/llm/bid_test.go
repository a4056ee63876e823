package llm

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/cache"
	"forgewire/db/dbtest"
)

// valkey starts a server and returns what makes a replica use it.
func valkey(t *testing.T) func(*Config) {
	t.Helper()
	server := dbtest.Valkey(t, nil)
	return func(c *Config) {
		values, err := cache.New(cache.Config{URL: server.URL(), LocalBytes: 16 << 20, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = values.Run(ctx) })
		t.Cleanup(func() { cancel(); running.Wait() })
		eventually(t, 10*time.Second, "Valkey is connected", func() bool {
			values.Set(ctx, "ready", []byte("x"), cache.SetOptions{TTL: time.Minute})
			_, ok := values.Get(ctx, "ready")
			return ok
		})
		c.Cache = values
	}
}

// rows counts the flights that the database knows of.
func (r *replica) rows(t *testing.T) (n int) {
	t.Helper()
	if err := r.elector.pool.QueryRow(context.Background(), `SELECT count(*) FROM forgewire.flights WHERE landed IS NULL`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// nothingLeft waits until no election holds anything.
func (r *replica) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, 5*time.Second, "no bid, no lead and no flight", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.elector.mu.Lock()
		defer r.elector.mu.Unlock()
		return len(r.bids) == 0 && len(r.elector.led) == 0 && len(r.byID) == 0
	})
	eventually(t, 5*time.Second, "no row", func() bool { return r.rows(t) == 0 })
}

func TestBidsLeadToOneCall(t *testing.T) {
	u := newUpstream(t)
	n := newNetwork(t)
	with := valkey(t)
	replicas := []*replica{n.replica(one(t, u), with), n.replica(one(t, u), with)}
	for round := range int64(3) {
		g := make(gate)
		u.handle = func(int64, http.ResponseWriter, *http.Request, []byte) bool { <-g; return false }
		var wg sync.WaitGroup
		answers := make(chan string, 60)
		for i := range 60 {
			wg.Go(func() {
				more := streamed
				if i%3 == 0 {
					more = ""
				}
				answers <- replicas[i%2].post(t, "chat/completions", ask(fmt.Sprint("bids ", round), more)).body
			})
		}
		eventually(t, 10*time.Second, "all have asked", func() bool {
			return replicas[0].inside.Load()+replicas[1].inside.Load() == 60 && u.calls.Load() > round
		})
		for _, r := range replicas {
			eventually(t, 10*time.Second, "no bid is left", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.bids) == 0 && len(r.flights) == 1
			})
		}
		g.open()
		wg.Wait()
		// Where the database did not decide in time, as documented, a replica went alone.
		if failed := replicas[0].elector.counts.failed.Load() + replicas[1].elector.counts.failed.Load(); failed > 0 {
			t.Skipf("the machine is too slow: %d elections failed", failed)
		}
		if c := u.calls.Load(); c != round+1 {
			t.Fatalf("%d calls after %d questions", c, round+1)
		}
		for range 60 {
			if a := <-answers; !strings.Contains(a, fmt.Sprintf(" #%d", round+1)) {
				t.Errorf("%s", a)
			}
		}
	}
	for _, r := range replicas {
		r.nothingLeft(t)
	}
}

func TestABidIsWithdrawnIfValkeyHasTheAnswer(t *testing.T) {
	u := newUpstream(t)
	n := newNetwork(t)
	with := valkey(t)
	a, b := n.replica(one(t, u), with), n.replica(one(t, u), with)
	const more = 12
	for i := range more {
		prompt := fmt.Sprint("there ", i)
		first := a.post(t, "chat/completions", ask(prompt, ""))
		a.settled(t)
		a.nothingLeft(t)
		bid := b.odds.good()
		if got := b.post(t, "chat/completions", ask(prompt, "")); got.body != first.body || !strings.Contains(got.header.Get("Cache-Status"), "hit") {
			t.Errorf("%+v", got)
		}
		if i == 0 && !bid {
			t.Error("a replica that knows nothing does not bid")
		}
		b.nothingLeft(t)
	}
	if b.odds.good() {
		t.Errorf("after %d hits a replica still bids", more)
	}
	if c := u.calls.Load(); c != more {
		t.Errorf("%d calls", c)
	}
	// What was given back can be won again.
	for range 40 {
		b.odds.note(false)
	}
	if !b.odds.good() {
		t.Error("after misses a replica does not bid again")
	}
}

// TestAnElectionThatIsWithdrawnGivesTheLeadBack, whether it had been decided or not.
func TestAnElectionThatIsWithdrawnGivesTheLeadBack(t *testing.T) {
	r, _ := single(t, nil)
	for i := range 20 {
		c := r.elector.propose(&candidacy{key: key{byte(i)}, id: newID(), tenant: "t", done: make(chan verdict, 1)})
		if i%2 == 0 {
			v := <-c.done
			c.done <- v
		}
		r.elector.withdraw(c)
	}
	r.nothingLeft(t)
}
