package llm

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPurgeReachesWhatIsUnderWay: an answer that began before a purge, on whichever replica and however it was asked for,
// is neither joined nor kept after it.
func TestPurgeReachesWhatIsUnderWay(t *testing.T) {
	for _, name := range []string{"joinable", "no-cache", "without an election"} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			g := make(gate)
			u.word = func(call int64, i int) bool { return call > 2 || i == 0 || g.word(call, i) }
			open := sync.OnceFunc(g.open)
			defer open()
			n := newNetwork(t)
			a, b := n.replica(one(t, u), nil), n.replica(one(t, u), nil)
			replicas, control, purged := []*replica{a, b}, "x", http.StatusOK
			switch name {
			case "no-cache":
				control = "no-cache"
			case "without an election":
				a.elector.pool.Close()
				replicas, purged = replicas[:1], http.StatusServiceUnavailable // the others may not know
			}
			under := []*liveStream{a.listen(t, ask("purge", streamed), "Cache-Control", control)}
			under[0].until(t, "alpha")
			under = append(under, b.listen(t, ask("purge", streamed), "Cache-Control", control))
			under[1].until(t, "alpha")
			if got := a.post(t, "cache/purge", `{"all":true}`); got.status != purged {
				t.Errorf("%+v", got)
			}
			u.calls.Store(2)
			for i, r := range replicas {
				got := r.post(t, "chat/completions", ask("purge", ""))
				if text := content(t, got.body); text == whole+" #1" || text == whole+" #2" {
					t.Errorf("replica %d joined %s", i, text)
				}
			}
			open()
			for _, l := range under {
				l.end(t)
			}
			for i, r := range replicas {
				r.settled(t)
				got := r.post(t, "chat/completions", ask("purge", ""))
				if text := content(t, got.body); text == whole+" #1" || text == whole+" #2" || !strings.Contains(got.header.Get("Cache-Status"), "hit") {
					t.Errorf("replica %d kept %s (%s)", i, text, got.header.Get("Cache-Status"))
				}
			}
		})
	}
}

// TestAFallbacksAnswerIsNotKeptForLong: by whoever asked for it, and by who joined him on another replica.
func TestAFallbacksAnswerIsNotKeptForLong(t *testing.T) {
	bad, good := newUpstream(t), newUpstream(t)
	bad.handle = func(call int64, w http.ResponseWriter, r *http.Request, b []byte) bool {
		w.Header().Set("retry-after-ms", "1")
		return answering(500, "application/json", `{"error":{"message":"no"}}`)(call, w, r, b)
	}
	ups, err := ParseUpstreams(fmt.Sprintf(`{"upstreams":[{"name":"bad","url":"%s/v1"},{"name":"good","url":"%s/v1"}],"aliases":{"m":["bad/m","good/m"]}}`, bad.URL, good.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := make(gate)
	good.word = g.word
	n := newNetwork(t)
	replicas := []*replica{n.replica(ups, nil), n.replica(ups, nil)}
	streams := []*liveStream{replicas[0].listen(t, ask("fallback", streamed))}
	g <- struct{}{}
	streams[0].until(t, "alpha")
	streams = append(streams, replicas[1].listen(t, ask("fallback", streamed)))
	streams[1].until(t, "alpha")
	g.open()
	for i, r := range replicas {
		streams[i].end(t)
		r.settled(t)
		h, fresh, b := r.lookup(t.Context(), mustRead(t, r, ask("fallback", "")))
		r.unbid(b)
		if !fresh || h.ttl > fallbackTTL || h.ttl < fallbackTTL-time.Minute {
			t.Errorf("replica %d keeps it for %v", i, h)
		}
	}
	if n := good.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}
