package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// Publishes with a key whose replies get lost, as the caller gives up early or the replica is killed, and
// which are retried on another replica: each is one message, and the retry is answered with its number.
func TestRetriesAreNotRepeated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	const keys = 300
	answers := make([]uint64, keys)
	retried := make([]bool, keys)
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			for i := w; i < keys; i += 10 {
				request := map[string]any{"channel": "room:1", "data": body(fmt.Sprint(i)), "idempotency_key": fmt.Sprint("key ", i)}
				for try := 0; answers[i] == 0; try++ {
					wait := time.Minute
					if try == 0 {
						wait = time.Duration(1+rand.IntN(15)) * time.Millisecond
					}
					ctx, cancel := context.WithTimeout(t.Context(), wait)
					var p position
					if err := c.replicas[(i+try)%2].call(ctx, "publish", request, &p); err == nil {
						answers[i], retried[i] = p.Offset, try > 0
					}
					cancel()
				}
			}
		})
	}
	during(t, 50*time.Millisecond)
	c.replicas[0].kill()
	c.replicas[0].start()
	c.replicas[0].waitReady(30 * time.Second)
	wg.Wait()
	rows := readLog(t, c.url)
	byID := map[string]uint64{}
	for _, r := range rows {
		byID[r.id] = r.offset
	}
	if len(rows) != keys || len(byID) != keys {
		t.Errorf("%d messages, %d different ones, want %d", len(rows), len(byID), keys)
	}
	n := 0
	for i, offset := range answers {
		if offset != byID[fmt.Sprint(i)] {
			t.Errorf("%d was answered with %d, the log has it at %d", i, offset, byID[fmt.Sprint(i)])
		}
		if retried[i] {
			n++
		}
	}
	if t.Logf("%d of %d were retried", n, keys); n == 0 {
		t.Error("nothing was retried: this test shows nothing")
	}
}

// Keys in a broadcast and in a batch, and keys that cannot be.
func TestKeysOverTheAPI(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	type responses struct {
		Responses []struct{ Result position }
	}
	var first, second responses
	request := map[string]any{"channels": []string{"a", "b", "a"}, "data": 1, "idempotency_key": "k"}
	for i, r := range []*responses{&first, &second} {
		if err := c.replicas[i].call(t.Context(), "broadcast", request, r); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(first) != fmt.Sprint(second) || first.Responses[0] != first.Responses[2] || first.Responses[0] == first.Responses[1] {
		t.Errorf("%v, then %v", first, second)
	}
	publish := json.RawMessage(`{"publish":{"channel":"a","data":2,"idempotency_key":"k"}}`)
	_, reply, err := c.replicas[0].post(t.Context(), "batch", apiKey, fmt.Appendf(nil, `{"commands":[%s,%s]}`, publish, publish))
	if want := fmt.Sprintf(`"offset":%d`, first.Responses[0].Result.Offset); err != nil || strings.Count(string(reply), want) != 2 {
		t.Errorf("batch: %s, %v; want twice %s", reply, err, want)
	}
	if rows := readLog(t, c.url); len(rows) != 2 {
		t.Errorf("%d messages, want 2", len(rows))
	}
	var bad *apiError
	err = c.replicas[0].call(t.Context(), "publish", map[string]any{"channel": "a", "data": 1, "idempotency_key": strings.Repeat("k", 256)}, nil)
	if !errors.As(err, &bad) || bad.Code != 107 {
		t.Errorf("a key that is too long: %v", err)
	}
}
