package realtime

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// heardOf collects announcements. Safe for concurrent use.
type heardOf struct {
	mu  sync.Mutex
	all []string
}

func (h *heardOf) hear(data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if data == nil {
		h.all = append(h.all, "missed")
		return
	}
	h.all = append(h.all, "got "+string(data))
}

func (h *heardOf) has(what ...string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Equal(h.all, what)
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	var heard [2]heardOf
	var other heardOf
	var nodes [2]*testReplica
	for i := range nodes {
		nodes[i] = newTestReplica(t, url, nil, func(n *Node) {
			n.Hear("keys", heard[i].hear)
			n.Hear("other", other.hear)
		})
	}
	for _, data := range []string{"1", "", "2"} {
		if err := nodes[0].node.Announce(t.Context(), "keys", []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range heard {
		eventually(t, 10*time.Second, "all is heard in order", func() bool { return heard[i].has("missed", "got 1", "got ", "got 2") })
	}
	if !other.has("missed", "missed") {
		t.Errorf("of another topic: %v", other.all)
	}
	// What was missed is unknown, and said to be.
	must(nodes[0].node.cfg.Pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'forgewire listen'"))
	for i := range heard {
		eventually(t, 10*time.Second, "it says that something may be missing", func() bool { return heard[i].has("missed", "got 1", "got ", "got 2", "missed") })
	}
	var e *Error
	if err := nodes[0].node.Announce(t.Context(), "keys", bytes.Repeat([]byte{1}, maxAnnounced+1)); !errors.As(err, &e) || e.Code != ErrLimitExceeded.Code {
		t.Errorf("one that is too large: %v", err)
	}
}
