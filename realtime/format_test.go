package realtime

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/centrifugal/protocol"
	"github.com/jackc/pgx/v5/pgxpool"
)

var formatNames = [formats]string{"wsJSON", "wsProtobuf", "streamJSON", "streamProtobuf", "sseJSON", "events"}

func testBurst(n, size int) *burst {
	b := &burst{channel: "room:1", epoch: "epoch", last: uint64(n)}
	for i := range n {
		b.messages = append(b.messages, &Message{Offset: uint64(i + 1), Channel: b.channel, Data: fmt.Appendf(nil, "%q", strings.Repeat("x", size))})
	}
	return b
}

// Each format's bytes of a burst, and of a part of it, are what its readers read.
func TestFormats(t *testing.T) {
	b := testBurst(3, 2)
	one := func(n int) string {
		return fmt.Sprintf(`{"push":{"channel":"room:1","pub":{"data":"xx","offset":%d}}}`, n)
	}
	for f, want := range map[format]string{
		wsJSON:     string(frame(opText, []byte(one(2)+"\n"+one(3)))),
		streamJSON: one(2) + "\n" + one(3) + "\n",
		sseJSON:    "data: " + one(2) + "\n\ndata: " + one(3) + "\n\n",
		events:     "id: epoch-2\ndata: \"xx\"\n\nid: epoch-3\ndata: \"xx\"\n\n",
	} {
		if got := string(b.frameAfter(f, 1)); got != want {
			t.Errorf("%s: %q, want %q", formatNames[f], got, want)
		}
	}
	body := b.frame(streamProtobuf)
	if ws := b.frame(wsProtobuf); string(ws) != string(frame(opBinary, body)) {
		t.Error("a WebSocket's frame and a stream's bytes differ")
	}
	for n := uint64(1); n <= 3; n++ {
		size, k := binary.Uvarint(body)
		var r protocol.Reply
		if err := r.UnmarshalCF(body[k : k+int(size)]); err != nil || r.Push.Pub.Offset != n {
			t.Fatalf("%v, %v", &r, err)
		}
		body = body[k+int(size):]
	}
	for f, want := range map[format]string{wsJSON: "\x81\x02{}", wsProtobuf: "\x82\x01\x00", streamJSON: "{}\n", streamProtobuf: "\x00", sseJSON: "data: {}\n\n", events: ":\n\n"} {
		if got := string(pings[f]); got != want {
			t.Errorf("a ping in %s is %q, want %q", formatNames[f], got, want)
		}
	}
}

// A burst is encoded once for each format, whoever subscribes.
func BenchmarkEncodeBurst(b *testing.B) {
	for _, n := range []int{1, 100} {
		burst := testBurst(n, 128)
		for f := range formats {
			b.Run(fmt.Sprintf("%s/%d", formatNames[f], n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(n * 128))
				for b.Loop() {
					burst.encode(f, burst.messages)
				}
			})
		}
	}
}

// FuzzStreamCommands sends whatever it likes to a stream of each form: no panic, and only whole replies.
func FuzzStreamCommands(f *testing.F) {
	connect := must(protocol.NewProtobufCommandEncoder().Encode(&protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{}}))
	subscribe := must(protocol.NewProtobufCommandEncoder().Encode(&protocol.Command{Id: 2, Subscribe: &protocol.SubscribeRequest{Channel: "a", Recover: true, Epoch: "x", Offset: 3}}))
	f.Add(true, append(connect, subscribe...))
	f.Add(true, append(connect, 0, 0))
	f.Add(true, []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add(false, []byte("{\"id\":1,\"connect\":{}}\n{}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}"))
	pool := must(pgxpool.New(context.Background(), "postgres://127.0.0.1:1/none"))
	pool.Close()
	h := newHub(1)
	n := &Node{hub: h, logger: slog.New(slog.DiscardHandler), strands: []*strand{newStrand(0, 1, LogConfig{Pool: pool, PublishPool: pool}, quietLogger(), h.in[0])},
		cfg: Config{AllowAnonymous: true, MaxPublicationBytes: 1000, Namespaces: NewNamespaces()}}
	for _, s := range n.hub.shards {
		s.handle(event{reset: true, at: 100, epoch: "x"})
	}
	f.Fuzz(func(t *testing.T, isBinary bool, data []byte) {
		form := streamJSON
		if isBinary {
			form = streamProtobuf
		}
		out := newStream(httptest.NewRecorder(), form)
		c := newClient(n, out, form)
		c.session = "secret"
		c.shard.add(c)
		if d := c.handleCommands(t.Context(), data); d != nil {
			c.disconnect(d)
		}
		c.shard.remove(c)
		for _, b := range out.queue {
			if isBinary {
				for len(b) > 0 {
					size, k := binary.Uvarint(b)
					var r protocol.Reply
					if k <= 0 || r.UnmarshalCF(b[k:k+int(size)]) != nil {
						t.Fatalf("%q was answered with %q", data, b)
					}
					b = b[k+int(size):]
				}
			} else if !json.Valid(b) {
				t.Fatalf("%q was answered with %q", data, b)
			}
		}
	})
}

// FuzzParseEmulation: whatever comes, nothing becomes a control that is not two ids and bounded commands.
func FuzzParseEmulation(f *testing.F) {
	f.Add(`{"node":"3c9f4a3e-0000-4000-8000-000000000000","session":"3c9f4a3e-0000-4000-8000-000000000001","data":"{}"}`, false)
	f.Add("\n\x01a", true)
	f.Fuzz(func(t *testing.T, body string, isBinary bool) {
		req, err := parseEmulation([]byte(body), isBinary)
		if err == nil && (len(req.Node) != 36 || len(req.Session) != 36 || len(req.Data) == 0) {
			t.Fatalf("%q became %+v", body, req)
		}
	})
}
