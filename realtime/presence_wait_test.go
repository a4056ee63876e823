package realtime

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// Who asks for presence waits for what is being written as well as for what is yet to be; not for ever.
func TestSettled(t *testing.T) {
	t.Parallel()
	p := newPresence(nil, slog.New(slog.DiscardHandler), "id", "", func() bool { return true }, func(string) bool { return false })
	if err := p.settled(t.Context()); err != nil {
		t.Fatalf("with nothing to write: %v", err)
	}
	p.join("c", infoFor("a"))
	b := p.take(time.Now())
	asked := make(chan error, 1)
	go func() { asked <- p.settled(t.Context()) }()
	eventually(t, 10*time.Second, "it waits for the batch under way", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiting) == 1
	})
	p.finished(b)
	p.finished(p.take(time.Now()))
	if err := <-asked; err != nil {
		t.Error(err)
	}
	p.join("c", infoFor("b"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.settled(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the asker left: %v", err)
	}
	close(p.done)
	if err := p.settled(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A database that is away is asked again, and nothing is lost meanwhile.
func TestPresenceOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	tn := newTown(t, 1)
	ctx := t.Context()
	watcher := visit(tn.nodes[0], "watcher")
	watcher.subscribe(t, "room:1")
	watcher.hears(t, "+watcher")
	must(tn.pool.Exec(ctx, "ALTER TABLE forgewire.presence RENAME TO away"))
	guest, brief := visit(tn.nodes[0], "guest"), visit(tn.nodes[0], "brief")
	guest.subscribe(t, "room:1")
	brief.subscribe(t, "room:1")
	brief.goHome()
	must(0, tn.nodes[0].presence.settled(ctx)) // an attempt that failed
	if n := one[int](t, tn.pool, "SELECT count(*) FROM forgewire.away"); n != 1 {
		t.Fatalf("%d rows", n)
	}
	must(tn.pool.Exec(ctx, "ALTER TABLE forgewire.away RENAME TO presence"))
	eventually(t, 10*time.Second, "the guest is there", func() bool { return len(must(tn.nodes[0].Presence(ctx, "room:1"))) == 2 })
	eventually(t, 10*time.Second, "all was told", func() bool { return len(watcher.news()) >= 4 })
}
