package realtime

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"forgewire/db/dbtest"
)

func TestSheddingRefusesConnections(t *testing.T) {
	t.Parallel()
	var short atomic.Bool
	n := &Node{hub: newHub(1), cfg: Config{MaxConnections: 2, Shedding: short.Load}}
	if n.full(2) || !n.full(3) {
		t.Error("the limit does not count")
	}
	short.Store(true)
	if !n.full(1) {
		t.Error("a connection is taken while memory is short")
	}
}

func TestSheddingOnTheWire(t *testing.T) {
	t.Parallel()
	r := newTestReplica(t, dbtest.New(t), func(cfg *Config) { cfg.Shedding = func() bool { return true } })
	ws, _, err := websocket.Dial(t.Context(), r.url("/connection/websocket"), nil) //nolint:bodyclose // the library closes it
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow() //nolint:errcheck // the server closed it
	if _, _, err = ws.Read(t.Context()); websocket.CloseStatus(err) != 1013 {
		t.Errorf("%v", err)
	}
	resp, err := http.Post(r.url("/connection/http_stream"), "application/json", strings.NewReader(`{"id":1,"connect":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("stream: %d", resp.StatusCode)
	}
}

func TestShrinkBuffers(t *testing.T) {
	n := &Node{}
	for _, c := range []struct {
		share float64
		want  int
	}{{1, maxPending}, {0.5, maxPending / 2}, {0, minPending}} {
		n.ShrinkBuffers(c.share)
		if got := n.pendingLimit(); got != c.want {
			t.Errorf("%v: %d", c.share, got)
		}
	}
	if (&Node{}).pendingLimit() != maxPending {
		t.Error("before the first call it is not the usual")
	}
}
