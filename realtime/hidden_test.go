package realtime

import (
	"errors"
	"math"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// What was hidden is in no history and no recovery; a client that had seen all of it has missed nothing.
func TestHide(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	ctx := t.Context()
	if _, err := l.Hide(ctx, "empty"); err != nil {
		t.Fatal(err)
	}
	old, other := appendN(t, l, "room:1", 5), appendN(t, l, "room:2", 3)
	if _, err := l.Hide(ctx, "room:1"); err != nil {
		t.Fatal(err)
	}
	recent := appendN(t, l, "room:1", 2)
	h := must(l.History(ctx, "room:1", HistoryFilter{Limit: -1}))
	if len(h.Messages) != 2 || h.Messages[0].Offset != recent[0].Offset {
		t.Errorf("history has %v", h.Messages)
	}
	if r := must(l.History(ctx, "room:1", HistoryFilter{Limit: -1, Reverse: true, Since: &Position{recent[0].Offset, h.Position.Epoch}})); len(r.Messages) != 0 {
		t.Errorf("going back, history has %v", r.Messages)
	}
	seenSome, seenAll := Position{old[3].Offset, h.Position.Epoch}, Position{old[4].Offset, h.Position.Epoch}
	if _, err := l.History(ctx, "room:1", HistoryFilter{Limit: -1, Since: &seenSome}); !errors.Is(err, ErrUnrecoverable) {
		t.Errorf("history since a hidden message: %v", err)
	}
	for _, future := range []uint64{recent[1].Offset + 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
		if h, err := l.History(ctx, "room:1", HistoryFilter{Limit: -1, Since: &Position{Offset: future}}); !errors.Is(err, ErrUnrecoverable) || len(h.Messages) > 0 {
			t.Errorf("history since %d, which is not yet: %v, %v", future, h.Messages, err)
		}
		if h := must(l.History(ctx, "room:1", HistoryFilter{Limit: -1, Reverse: true, Since: &Position{Offset: future}})); len(h.Messages) != 2 {
			t.Errorf("history back from %d has %v", future, h.Messages)
		}
	}
	if _, err := l.recover(ctx, "room:1", seenSome, recent[1].Offset, kept{}); !errors.Is(err, ErrUnrecoverable) {
		t.Errorf("recovery since a hidden message: %v", err)
	}
	for _, since := range []Position{seenAll, {other[2].Offset, h.Position.Epoch}} {
		if m := must(l.recover(ctx, "room:1", since, recent[1].Offset, kept{})); len(m) != 2 {
			t.Errorf("since %d: recovered %v", since.Offset, m)
		}
	}
	if r := must(l.History(ctx, "room:1", HistoryFilter{Limit: -1, Since: &seenAll})); len(r.Messages) != 2 {
		t.Errorf("history since the last hidden message: %v", r.Messages)
	}
	if r := must(l.History(ctx, "room:2", HistoryFilter{Limit: -1})); len(r.Messages) != 3 {
		t.Errorf("the other channel has %v", r.Messages)
	}
	// What is retired need not be hidden.
	must(pool.Exec(ctx, "UPDATE forgewire.log SET retired = $1", int64(recent[1].Offset)))
	if _, err := l.Hide(ctx, "room:2"); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, pool, "SELECT count(*) FROM forgewire.hidden WHERE channel = 'room:1'"); n != 0 {
		t.Error("the row stayed for ever")
	}
}

// What was removed is not told from a replica's memory either, also on replicas that did not do it, nor when
// the word of it was lost with the connection.
func TestHiddenFromTail(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	a, b := startReplica(t, url, ""), startReplica(t, url, `{"namespaces":[{"name":"cache","cache_channel":true}]}`)
	first := must(a.Publish(t.Context(), message("room:1", 0)))[0].Offset
	last := must(a.Publish(t.Context(), message("room:1", 1), message("cache:1", 1)))[1].Offset
	eventually(t, 10*time.Second, "heard", func() bool { return handedOn(b, last) })
	since := Position{Offset: first, Epoch: b.Epoch("")}
	recovered := func() bool {
		_, err := b.recover(t.Context(), "room:1", since, last, kept{})
		if err != nil && !errors.Is(err, ErrUnrecoverable) {
			t.Fatal(err)
		}
		return err == nil
	}
	if !recovered() || must(b.latest(t.Context(), "cache:1", last, kept{})) == nil {
		t.Fatal("before it was removed")
	}
	for _, channel := range []string{"room:1", "cache:1"} {
		if err := a.RemoveHistory(t.Context(), channel); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "it is gone on the other replica", func() bool {
		return !recovered() && must(b.latest(t.Context(), "cache:1", last, kept{})) == nil
	})
	b.hub.in[0].tail.mu.Lock()
	b.hub.in[0].tail.hidden = nil
	b.hub.in[0].tail.mu.Unlock()
	must(b.cfg.Pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'forgewire listen'"))
	eventually(t, 10*time.Second, "it is gone after the listener came back", func() bool { return !recovered() })
}
