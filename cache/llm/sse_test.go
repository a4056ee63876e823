package llm

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// read parses a stream that comes in pieces of size bytes.
func read(stream []byte, size int) (events []event, whole, mended bool, err error) {
	var p sseParser
	keep := func(e event) { events = append(events, e) }
	for len(stream) > 0 && err == nil {
		n := min(size, len(stream))
		err = p.feed(stream[:n], keep)
		stream = stream[n:]
	}
	whole = p.end(keep)
	return events, whole, p.mended, err
}

func TestSSEParserIsAsTolerantAsTheSDKs(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []string
		cut          bool
	}{
		{"plain", "data: {}\n\ndata: [DONE]\n\n", []string{"|{}", "|[DONE]"}, false},
		{"crlf", "data: {}\r\n\r\ndata: 1\r\n\r\n", []string{"|{}", "|1"}, false},
		{"cr", "data: {}\r\rdata: 1\r\r", []string{"|{}", "|1"}, false},
		{"comments, ids, no space, a mark of order", "\xef\xbb\xbf: hi\n\nid: 7\nretry: 5\nevent:x\ndata:{}\n\n", []string{"x|{}"}, false},
		{"two lines", "data: {\ndata: }\n\n", []string{"|{\n}"}, false},
		{"empty data", "data\n\n", []string{"|"}, false},
		{"no blank line after the last", "data: {}\n\ndata: [DONE]", []string{"|{}", "|[DONE]"}, false},
		{"half an event", "data: {}\n\ndata: {\"a\":", []string{"|{}"}, true},
		{"an event without data", "event: ping\n\ndata: 1\n\n", []string{"|1"}, false},
		{"not UTF-8", "data: \"\xff\"\n\n", []string{"|\"\uFFFD\""}, false},
	} {
		for _, size := range []int{1, 2, 3, 7, 1000} {
			events, whole, _, err := read([]byte(c.stream), size)
			var got []string
			for _, e := range events {
				got = append(got, e.name+"|"+string(e.data))
			}
			if err != nil || !reflect.DeepEqual(got, c.want) || whole == c.cut {
				t.Errorf("%s in pieces of %d: %q, whole %v, %v", c.name, size, got, whole, err)
			}
		}
	}
}

func TestAnEventHasABound(t *testing.T) {
	big := strings.Repeat("x", 3<<20)
	if events, _, _, err := read([]byte("data: "+big+"\n\n"), 32<<10); err != nil || len(events) != 1 || len(events[0].data) != 3<<20 {
		t.Errorf("3 MB: %d events, %v", len(events), err)
	}
	for _, s := range []string{"data: " + strings.Repeat("x", maxEventBytes+1), strings.Repeat("data: "+big+"\n", 3), "y" + strings.Repeat("x", maxEventBytes+1)} {
		if _, _, _, err := read([]byte(s), 32<<10); !errors.Is(err, errEventTooLarge) {
			t.Errorf("%.10s…: %v", s, err)
		}
	}
}

func FuzzSSE(f *testing.F) {
	f.Add([]byte("data: {}\r\n\r\n: c\nevent: a\ndata: 1\ndata: 2\n\ndata: [DO"), 3)
	f.Add([]byte("\xef\xbb\xbfdata\r\rdata: \xff\n"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		if size <= 0 {
			size = 1
		}
		whole, _, _, err := read(stream, len(stream)+1)
		pieces, _, _, err2 := read(stream, size)
		if !reflect.DeepEqual(whole, pieces) || !errors.Is(err2, err) {
			t.Fatalf("in one piece %q, in pieces of %d %q", whole, size, pieces)
		}
		// What is written is read again.
		var b []byte
		for _, e := range whole {
			if bytes.ContainsAny(e.data, "\r") || strings.ContainsAny(e.name, "\r\n") {
				return
			}
			b = e.append(b, "")
		}
		if again, _, _, _ := read(b, 5); !reflect.DeepEqual(again, whole) {
			t.Fatalf("%q became %q", whole, again)
		}
	})
}
