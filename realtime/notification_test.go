package realtime

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// sent is what append makes of packed messages.
func sent(prev uint64, messages []Message) (payloads []string) {
	metas := make([]string, len(messages))
	for i := range messages {
		metas[i] = messages[i].Meta.encode()
	}
	bodies, counts := pack(messages, metas)
	first := prev + 1
	for i := range bodies {
		payloads = append(payloads, fmt.Sprintf("m %d %d %d\n%s", prev, first, counts[i], bodies[i]))
		prev += uint64(counts[i])
		first = prev + 1
	}
	return payloads
}

func TestPackAndParse(t *testing.T) {
	const prev = 1 << 50
	messages := []Message{
		{Channel: "room:1", Data: []byte(`{"a":1}`)},
		{Channel: "room:2", Data: []byte(`"text with \n escaped"`), Meta: Meta{Info: &Info{User: "joe", Client: "c"}, Tags: map[string]string{"k": "v"}}},
		{Channel: "big", Data: []byte(`"` + strings.Repeat("x", 9000) + `"`)},
		{Channel: "room:1", Data: []byte(`"` + strings.Repeat("y", 5000) + `"`)},
		{Channel: "room:1", Data: []byte(`"` + strings.Repeat("z", 5000) + `"`)},
		{Channel: "room:1", Data: []byte(`1`)},
	}
	for i := range messages {
		messages[i].Offset = prev + 1 + uint64(i)
	}
	at, i := uint64(prev), 0
	for _, p := range sent(prev, messages) {
		if len(p) > maxPayload {
			t.Errorf("a payload of %d bytes", len(p))
		}
		n, err := parseNotification(p)
		if err != nil {
			t.Fatal(err)
		}
		if n.prev != at || n.first != at+1 {
			t.Errorf("after %d came %d, naming %d", at, n.first, n.prev)
		}
		at = n.last()
		for _, m := range n.messages {
			for messages[i].Channel == "big" {
				i++ // by reference
			}
			if !reflect.DeepEqual(m, messages[i]) {
				t.Errorf("got %+v, want %+v", m, messages[i])
			}
			i++
		}
	}
	if at != messages[5].Offset || i != len(messages) {
		t.Errorf("ended at %d, message %d", at, i)
	}
}

func FuzzParseNotification(f *testing.F) {
	f.Add("m 1 2 1\nroom:1\n{}\n\n")
	f.Add("m 1 2 1\n")
	f.Add("m 1 2 2\na\n1\n\nb\n2\n{\"tags\":{\"a\":\"b\"}}\n")
	f.Add("m 18446744073709551615 2 1\n")
	f.Add("p 1234-1")
	f.Fuzz(func(t *testing.T, payload string) {
		n, err := parseNotification(payload)
		if err != nil {
			return
		}
		if n.prev >= n.first || n.count == 0 || n.messages != nil && uint64(len(n.messages)) != n.count {
			t.Fatalf("%q became %+v", payload, n)
		}
		for i, m := range n.messages {
			if m.Offset != n.first+uint64(i) || strings.Contains(m.Channel+string(m.Data), "\n") {
				t.Fatalf("%q became %+v", payload, n)
			}
		}
	})
}

func BenchmarkPack(b *testing.B) {
	messages := make([]Message, 64)
	for i := range messages {
		messages[i] = Message{Channel: "room:1", Data: []byte(`"` + strings.Repeat("x", 150) + `"`)}
	}
	metas := make([]string, len(messages))
	b.ReportAllocs()
	for b.Loop() {
		pack(messages, metas)
	}
}

func BenchmarkParseNotification(b *testing.B) {
	messages := make([]Message, 40)
	for i := range messages {
		messages[i] = Message{Channel: "room:1", Data: []byte(`"` + strings.Repeat("x", 150) + `"`)}
	}
	payload := sent(100, messages)[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseNotification(payload); err != nil {
			b.Fatal(err)
		}
	}
}
