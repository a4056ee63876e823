package realtime

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db/dbtest"
)

func TestSilence(t *testing.T) {
	began := time.Now()
	after := func(d time.Duration) time.Time { return began.Add(d) }
	s := silence{began: began}
	for _, c := range []struct {
		at            time.Duration
		offset, wants uint64
		unheard, deaf bool
	}{
		{pingAfter - 1, 7, 7, true, false},
		{pingAfter, 7, 7, true, true},
		{pingAfter, 7, 7, false, false},
		{pingAfter + 1, 7, 8, false, false}, // it may be on its way
		{2 * pingAfter, 7, 9, false, false},
		{2*pingAfter + 1, 8, 9, false, false}, // that came; another is on its way
		{3 * pingAfter, 8, 9, false, false},
		{3*pingAfter + 1, 8, 9, false, true},
	} {
		if got := s.deaf(after(c.at), c.offset, c.wants, c.unheard); got != c.deaf {
			t.Errorf("%+v: %v", c, got)
		}
	}
	s.end(after(4 * pingAfter))
	if s.deaf(after(4*pingAfter+1), 8, 9, true) {
		t.Error("something came just now")
	}
}

// A probe counts as missed when it had its time and did not come. One that came late says that the listener hears, and one
// for which nobody waits any more says nothing.
func TestMissedProbes(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	pool := must(pgxpool.New(t.Context(), url))
	defer pool.Close()
	h := newHealth(pool)
	h.missed = missedProbes
	if h.echo("another's-1"); !h.unheard() {
		t.Error("another replica's came")
	}
	if h.echo(h.nonce + "-1"); h.unheard() {
		t.Error("it came, if late")
	}
	listening := must(pgx.Connect(t.Context(), url))
	defer closeConn(listening)
	must(listening.Exec(t.Context(), "LISTEN "+notifyLog))
	for left := false; !left; {
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.probe(ctx) }()
		must(listening.WaitForNotification(t.Context()))
		leave()
		left = errors.Is(<-done, errNoEcho) // else it was still about to hear that the probe is on its way
	}
	if h.missed != 0 {
		t.Errorf("%d were missed by who has left", h.missed)
	}
}

// A session that lives, answers pings and brings nothing, as on a server that was the primary once, is left: where what this
// replica publishes does not come back, and where its probes do not.
func TestDeafListener(t *testing.T) {
	t.Parallel()
	var deaf atomic.Bool // the next session is
	var n *Node
	r := newTestReplica(t, dbtest.New(t), nil, func(node *Node) {
		n = node
		l := n.strands[0].listener
		verify := l.verify
		l.verify = func(ctx context.Context, q querier) error {
			if deaf.CompareAndSwap(true, false) {
				if _, err := q.(*pgx.Conn).Exec(ctx, "UNLISTEN *"); err != nil {
					return err
				}
			}
			return verify(ctx, q)
		}
	})
	deafen := func() {
		t.Helper()
		deaf.Store(true)
		n.strands[0].listener.end(errors.New("the test ends it"))
		eventually(t, time.Minute, "the session is deaf", func() bool { return !deaf.Load() && n.strands[0].health.isConnected() })
	}
	deafen()
	at := must(r.node.Publish(t.Context(), message("a", 1)))[0].Offset
	eventually(t, time.Minute, "what was published arrives", func() bool { return handedOn(n, at) })
	deafen()
	eventually(t, time.Minute, "the replica is ready again", func() bool { return n.Ready(t.Context()) == nil })
}
