package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	h := newHistogram()
	for i := range int64(1000) {
		h.record((i + 1) * int64(time.Millisecond))
	}
	other := newHistogram()
	other.record(int64(time.Hour)) // beyond what is kept
	other.record(-5)               // a clock that was set back
	h.merge(other)
	l := h.times("")
	for _, c := range []struct{ got, want float64 }{{l.P50, 500}, {l.P90, 900}, {l.P99, 990}, {l.Max, 120_000}} {
		if c.got < 0.995*c.want || c.got > 1.005*c.want {
			t.Errorf("got %v ms, want about %v: %+v", c.got, c.want, l)
		}
	}
	if empty := newHistogram().times(""); empty != (Times{}) {
		t.Errorf("nothing recorded: %+v", empty)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 100}, 3.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: %v", c.values, got)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, size := range []int{minSize, 150} {
		data := newData(size)
		sent := stamp(data, 63, 1_234_567)
		if len(data) != size {
			t.Errorf("%d bytes instead of %d", len(data), size)
		}
		frame := []byte(`{"push":{"channel":"c","pub":{"data":` + string(data) + `,"offset":77}}}` + "\n" + `{"push":{}}`)
		a, rest, ok := findMessage(frame)
		if !ok || a != (arrival{sent: sent, publisher: 63, count: 1_234_567}) {
			t.Errorf("found %+v, %v in %s", a, ok, frame)
		}
		offset, rest, ok := findOffset(rest)
		if !ok || offset != 77 {
			t.Errorf("offset %d, %v", offset, ok)
		}
		if _, _, ok = findMessage(rest); ok {
			t.Errorf("found a second message in %s", rest)
		}
	}
	for _, b := range []string{"", `"t:`, `"t:12"`, strings.Replace(string(newData(150)), "0", "x", 1), string(newData(150))} {
		if a, _, ok := findMessage([]byte(b)); ok { // the last has no stamps yet
			t.Errorf("found %+v in %q", a, b)
		}
	}
}

// entered is one message for a ledger.
type entered struct {
	publisher, count int
	offset           uint64
}

func ledgerOf(t *testing.T, witness bool, messages ...entered) *ledger {
	t.Helper()
	l := newLedger(2, witness)
	for _, m := range messages {
		if _, err := l.enter(arrival{publisher: m.publisher, count: m.count}, m.offset); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestLedgerRefusesDisorder(t *testing.T) {
	for name, offset := range map[string]uint64{"twice": 5, "older": 4} {
		l := ledgerOf(t, true, entered{1, 0, 5})
		if _, err := l.enter(arrival{publisher: 1, count: 1}, offset); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := l.enter(arrival{publisher: 2}, offset); err != nil {
			t.Errorf("%s, another channel: %v", name, err)
		}
	}
}

func TestLedgerEnds(t *testing.T) {
	l := ledgerOf(t, false, entered{0, 0, 1}, entered{endOfRun, 0, 2})
	if l.complete() {
		t.Error("complete without the last message of channel 1")
	}
	if _, err := l.enter(arrival{publisher: endOfRun, count: 1}, 3); err != nil || !l.complete() {
		t.Errorf("not complete: %v", err)
	}
	if _, err := l.enter(arrival{publisher: endOfRun, count: 2}, 4); !errors.Is(err, ErrBroken) {
		t.Errorf("a channel too many: %v", err)
	}
}

func TestCheck(t *testing.T) {
	publishers := func() []*publisher {
		// The second of the first one was not acknowledged; that of the second one by a COMMIT, which knows no offset.
		return []*publisher{{offsets: []uint64{10, 0, 30}}, {offsets: []uint64{unknownOffset}}}
	}
	all := []entered{{0, 0, 10}, {1, 0, 20}, {0, 2, 30}}
	for _, c := range []struct {
		name           string
		witness, other []entered
		broken         bool
	}{
		{name: "whole", witness: all, other: all},
		{name: "also what was not acknowledged", witness: []entered{{0, 0, 10}, {1, 0, 20}, {0, 1, 25}, {0, 2, 30}}, other: []entered{{1, 0, 20}, {0, 0, 10}, {0, 1, 25}, {0, 2, 30}}},
		{name: "lost by all", witness: all[:2], other: all[:2], broken: true},
		{name: "a commit lost by all", witness: []entered{all[0], all[2]}, other: []entered{all[0], all[2]}, broken: true},
		{name: "lost by one", witness: all, other: all[:2], broken: true},
		{name: "another offset", witness: []entered{{0, 0, 10}, {1, 0, 20}, {0, 2, 31}}, other: []entered{{0, 0, 10}, {1, 0, 20}, {0, 2, 31}}, broken: true},
		{name: "twice under two offsets", witness: append(all, entered{0, 2, 40}), other: append(all, entered{0, 2, 40}), broken: true},
		{name: "never sent", witness: append(all, entered{0, 3, 40}), other: append(all, entered{0, 3, 40}), broken: true},
	} {
		n, err := check(publishers(), []*ledger{ledgerOf(t, true, c.witness...), ledgerOf(t, false, c.other...)})
		if errors.Is(err, ErrBroken) != c.broken || err == nil && n != 3 {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
	}
}

func TestPublishConn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		_, _, found := findMessage(body)
		switch {
		case err != nil || !found || r.URL.Path != "/sub/api/publish" || r.Header.Get("X-API-Key") != "key":
			t.Errorf("request: %s %v %s %v", r.URL, r.Header, body, err)
		case strings.Contains(string(body), `"channel":"good"`):
			_, _ = io.WriteString(w, `{"result":{"offset":42,"epoch":"e"}}`)
		case strings.Contains(string(body), `"channel":"chunked"`):
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, `{"result":{"offset":42,"epoch":"e"}}`)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":{"code":100,"message":"later"}}`)
		}
	}))
	defer server.Close()
	publish := func(channel string) (uint64, error) {
		u, err := url.Parse(server.URL + "/sub")
		if err != nil {
			t.Fatal(err)
		}
		c, err := dialPublish(context.Background(), u, "key", channel, 150)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		var offset uint64
		for count := range 3 { // over one connection
			stamp(c.data, 0, count)
			if offset, err = c.publish(); err != nil {
				break
			}
		}
		return offset, err
	}
	for _, channel := range []string{"good", "chunked"} {
		if at, err := publish(channel); at != 42 || err != nil {
			t.Errorf("%s: %d, %v", channel, at, err)
		}
	}
	if _, err := publish("bad"); !errors.As(err, new(refused)) || !strings.Contains(err.Error(), "later") {
		t.Errorf("bad: %v", err)
	}
}

const pgbenchOutput = `pgbench (15.18)
progress: 1.0 s, 5000.0 tps, lat 4.2 ms stddev 1.6, 0 failed
progress: 2.0 s, 7000.0 tps, lat 4.2 ms stddev 1.6, 0 failed
progress: 3.0 s, 9000.0 tps, lat 4.2 ms stddev 1.6, 0 failed
transaction type: script.sql
number of transactions actually processed: 21005
number of failed transactions: 0 (0.000%)
initial connection time = 24.152 ms
tps = 7001.5 (without initial connection time)
`

func TestParseOutcome(t *testing.T) {
	for _, c := range []struct {
		warmup time.Duration
		rate   float64
	}{{0, 7001.5}, {time.Second, 8000}, {2 * time.Second, 9000}, {5 * time.Second, 7001.5}} {
		o, err := parsePgbench([]byte(pgbenchOutput), c.warmup)
		if err != nil || o.committed != 21005 || o.rate != c.rate {
			t.Errorf("warm-up %v: %+v, %v", c.warmup, o, err)
		}
	}
	if _, err := parsePgbench([]byte("pgbench: error: gone"), 0); !errors.Is(err, errPgbench) {
		t.Error(err)
	}
}
