package realtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
)

// A command for a replica that is made up, or gone, costs no notification, and one for a connection on another replica
// is passed on.
func TestNothingIsPassedOnToNobody(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	s := openStream(t, "POST", a.url("/connection/http_stream"), `{"id":1,"connect":{}}`)
	c := s.reply().Connect
	conn := must(pgx.Connect(t.Context(), a.node.cfg.ListenURL))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if status, why := emulate(t, b, c.Node, c.Session, `{"id":2,"ping":{}}`); status != 204 {
		t.Fatal(status, why)
	}
	if r := s.reply(); r.ID != 2 {
		t.Fatalf("%+v", r)
	}

	heard := func() (n int) { // what was told since the last call, ours left out
		t.Helper()
		if _, err := conn.Exec(t.Context(), "SELECT pg_notify($1, 'the end')", notifyLog); err != nil {
			t.Fatal(err)
		}
		for ; ; n++ {
			told, err := conn.WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if told.Payload == "the end" {
				return n
			}
		}
	}
	if _, err := conn.Exec(t.Context(), "LISTEN "+notifyLog); err != nil {
		t.Fatal(err)
	}
	heard()
	nobody := "3c9f4a3e-0000-4000-8000-000000000000"
	for range 2 {
		if status, why := emulate(t, b, nobody, c.Session, `{"id":3,"ping":{}}`); status != 404 {
			t.Errorf("a replica that is made up: %d %s", status, why)
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("%d notifications for nobody", n)
	}
	if status, why := emulate(t, b, c.Node, c.Session, `{"id":4,"ping":{}}`); status != 204 {
		t.Error(status, why)
	}
	if n := heard(); n != 1 {
		t.Errorf("%d notifications for somebody: the test does not hear them", n)
	}
	if r := s.reply(); r.ID != 4 {
		t.Fatalf("%+v", r)
	}
}

// newTestForwarding knows of the replica "there", for 30 s after each look.
func newTestForwarding(t *testing.T, rate int, look func() error) (f *forwarding, looks *atomic.Int32) {
	t.Helper()
	looks = new(atomic.Int32)
	return must(newForwarding(func(context.Context) (map[string]time.Duration, error) {
		looks.Add(1)
		return map[string]time.Duration{"there": leaseTime}, look()
	}, rate)), looks
}

func nothing() error { return nil }

var strangers atomic.Uint32

// anybody is an address that was not seen before.
func anybody() netip.Prefix {
	n := strangers.Add(1)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// Who makes sessions up, from one address, takes neither the places nor the rate of all.
func TestForwardedSessionsOfOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, looks := newTestForwarding(t, 0, nothing)
		stranger, taken := anybody(), 0
		for second := range 30 {
			for i := range 2 * newForwardSessions {
				if f.admit(t.Context(), stranger, "there", fmt.Sprint(second, "-", i)) == nil {
					taken++
				}
			}
			if err := f.admit(t.Context(), anybody(), "there", fmt.Sprint("somebody ", second)); err != nil {
				t.Fatalf("somebody else, after %d seconds: %v", second, err)
			}
			<-time.After(time.Second)
		}
		if taken > 31*newAddressSessions+newAddressSessions {
			t.Errorf("one address had %d sessions", taken)
		}
		if err := f.admit(t.Context(), anybody(), "there", "somebody 0"); err != nil {
			t.Errorf("who was there: %v", err)
		}
		before := looks.Load()
		for i := range 2 * newForwardSessions {
			_ = f.admit(t.Context(), stranger, "there", fmt.Sprint("again ", i))
		}
		for range 1000 {
			if err := f.admit(t.Context(), stranger, "made up", "x"); !errors.Is(err, errSessionRate) {
				t.Fatal(err)
			}
		}
		if looks.Load() != before {
			t.Error("the database was asked for somebody who is over his rate")
		}
	})
}

// One look serves many: those that wait together, and all that come while a lease lasts.
func TestLeasesAreLookedUpSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, looks := newTestForwarding(t, 0, nothing)
		for i := range 20 {
			if err := f.admit(t.Context(), anybody(), "there", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks for a replica that is there", n)
		}
		ended := make(chan error, maxLeaseWaits)
		for i := range maxLeaseWaits {
			go func() { ended <- f.admit(t.Context(), anybody(), "made up", fmt.Sprint(i)) }()
		}
		synctest.Wait()
		if err := f.admit(t.Context(), anybody(), "made up, too", ""); !errors.Is(err, errForwardFull) {
			t.Errorf("one too many waits: %v", err)
		}
		if err := f.admit(t.Context(), anybody(), "there", "x"); err != nil {
			t.Errorf("what is known waits for nobody: %v", err)
		}
		begin := time.Now()
		for range maxLeaseWaits {
			if err := <-ended; !errors.Is(err, errNoReplica) {
				t.Fatal(err)
			}
		}
		if n, took := looks.Load(), time.Since(begin); n > 7 || took > leaseWritten+2*leaseLookEvery {
			t.Errorf("%d looks in %v for replicas that are made up", n, took)
		}
		before := looks.Load()
		<-time.After(leaseTime)
		if err := f.admit(t.Context(), anybody(), "there", "x"); err != nil || looks.Load() != before+1 {
			t.Errorf("after a lease: %v, %d looks more", err, looks.Load()-before)
		}
	})
}

// While the database is away, nobody is told that a replica is not there, and what is known stays known.
func TestLeasesWithoutDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		var err error
		f, looks := newTestForwarding(t, 0, func() error { return err })
		if err := f.admit(t.Context(), anybody(), "there", ""); err != nil {
			t.Fatal(err)
		}
		err = away
		ended := make(chan error, 10)
		for range 10 {
			go func() { ended <- f.admit(t.Context(), anybody(), "new", "") }()
		}
		for range 10 {
			if err := <-ended; !errors.Is(err, away) {
				t.Error(err)
			}
		}
		if n := looks.Load(); n != 2 {
			t.Errorf("%d looks for ten that asked at once", n)
		}
		if err := f.admit(t.Context(), anybody(), "there", ""); err != nil {
			t.Errorf("it was there: %v", err)
		}
	})
}

// A session sends as often as a client may; of new ones only so many come a second, and only so many are remembered.
func TestForwardedSessionsAreBounded(t *testing.T) {
	t.Parallel()
	f, _ := newTestForwarding(t, 100, nothing)
	now := time.Now()
	admitted := func(n int, key func(i int) string, want error) (count int) {
		t.Helper()
		for i := range n {
			err := f.count(key(i), now)
			if err == nil {
				count++
			} else if !errors.Is(err, want) {
				t.Fatal(err)
			}
		}
		return count
	}
	one := func(int) string { return "one" }
	if n := admitted(300, one, errSessionRate); n != 100 {
		t.Errorf("%d commands of one session at once", n)
	}
	now = now.Add(time.Second)
	if n := admitted(300, one, errSessionRate); n != 100 {
		t.Errorf("%d commands of one session a second", n)
	}
	now = now.Add(time.Second)
	total := 0
	for range maxForwardSessions / newForwardSessions {
		asked := min(2*newForwardSessions, maxForwardSessions-total)
		if n := admitted(asked, func(i int) string { return fmt.Sprint(total + i) }, errSessionRate); n != newForwardSessions {
			t.Errorf("%d new sessions a second", n)
		}
		total += newForwardSessions
		now = now.Add(time.Second)
	}
	now = now.Add(-500 * time.Millisecond) // the oldest was used less than forwardIdle ago
	if n := admitted(10, func(i int) string { return fmt.Sprint("more", i) }, errForwardFull); n != 0 {
		t.Errorf("%d sessions more than are remembered", n)
	}
	now = now.Add(forwardIdle)
	if n := admitted(10, func(i int) string { return fmt.Sprint("more", i) }, errForwardFull); n != 10 {
		t.Errorf("%d of 10 take the places of sessions that sent nothing for long", n)
	}
}
