package realtime

import (
	"bytes"
	"fmt"
	"testing"
)

// taker is a transport that counts what it gets.
type taker struct {
	discard
	got []byte // the offsets, of one digit
	all int
}

func (k *taker) send(b []byte, _ int) error {
	for rest := b; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		k.got = append(k.got, rest[end-len("1}}}\n")])
		rest = rest[end:]
	}
	k.all += len(b)
	return nil
}

// What waits for many clients while a backlog is handed on does not grow with both; each gets everything in order.
func TestBacklogIsHandedOnInParts(t *testing.T) {
	h := newHub(1)
	s := h.shards[0]
	const clients, bursts, size = 60, 4, 200 << 10
	var all []*client
	for range clients {
		c := newClient(&Node{hub: h}, &taker{}, streamJSON)
		c.shard = s
		s.subscribe(&subscription{client: c, channel: "c", live: true})
		all = append(all, c)
	}
	waits := 0
	var backlog []*burst
	for i := range bursts {
		m := &Message{Offset: uint64(i + 1), Channel: "c", Data: fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), size))}
		backlog = append(backlog, &burst{channel: "c", messages: []*Message{m}, size: len(m.Data), last: m.Offset})
	}
	s.gather(backlog)
	for _, c := range all {
		waits += len(c.rest)
	}
	if waits >= maxCopied {
		t.Errorf("%d bytes wait", waits)
	}
	s.flush()
	want := 0
	for _, b := range backlog {
		want += len(b.frameAfter(streamJSON, 0))
	}
	for _, c := range all {
		if k := c.out.(*taker); k.all != want || string(k.got) != "1234" {
			t.Fatalf("a client got %d bytes of %d, with the offsets %s", k.all, want, k.got)
		}
	}
}
