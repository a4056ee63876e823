package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sinkConn is a connection that keeps what is written to it.
type sinkConn struct {
	net.Conn
	written bytes.Buffer
}

func (s *sinkConn) Write(b []byte) (int, error)      { return s.written.Write(b) }
func (s *sinkConn) SetDeadline(time.Time) error      { return nil }
func (s *sinkConn) SetWriteDeadline(time.Time) error { return nil }
func (s *sinkConn) Close() error                     { return nil }

// FuzzCommands sends whatever it likes to a client of a node whose database is gone: no panic, and every
// frame that comes back holds whole JSON replies.
func FuzzCommands(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"connect":{}}`,
		"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room:1\",\"recover\":true,\"offset\":1,\"epoch\":\"x\"}}",
		"{\"id\":1,\"connect\":{\"token\":\"a.b.c\"}}\n{}",
		"{\"id\":1,\"connect\":{}}\n{\"id\":3,\"publish\":{\"channel\":\"a\",\"data\":{\"a\":[1,2]}}}",
		"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":4,\"history\":{\"channel\":\"a\",\"limit\":-1,\"since\":{\"offset\":1}}}\n{\"id\":5,\"unsubscribe\":{\"channel\":\"a\"}}",
		"{\"id\":1,\"connect\":{}}\n{\"id\":6,\"rpc\":{}}\n{\"id\":7,\"presence\":{}}\n{\"id\":8}\n{\"send\":{}}",
		"\xff\xfe", "null", "[]", "{\"id\":99999999999}", "{\"id\":1,\"connect\":{\"data\":\"\\u0000\"}}",
	} {
		f.Add([]byte(s))
	}
	pool := must(pgxpool.New(context.Background(), "postgres://127.0.0.1:1/none"))
	pool.Close()
	h := newHub(1)
	for _, s := range h.shards {
		s.handle(event{reset: true, at: 100, epoch: "x"})
	}
	n := &Node{hub: h, logger: slog.New(slog.DiscardHandler), strands: []*strand{newStrand(0, 1, LogConfig{Pool: pool, PublishPool: pool}, quietLogger(), h.in[0])},
		cfg: Config{AllowAnonymous: true, Tokens: TokenConfig{Secret: testSecret}, MaxPublicationBytes: 1000,
			Namespaces: must(ParseNamespaces(`{"without_namespace":{"allow_publish_for_client":true}}`))}}
	if err := n.guard(); err != nil {
		f.Fatal(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, data []byte) {
		sink := &sinkConn{}
		out := newConn(sink)
		c := newClient(n, out, wsJSON)
		c.shard.add(c)
		if d := c.handleFrame(gone, websocket.MessageText, data); d != nil {
			c.disconnect(d)
		}
		c.shard.remove(c)
		for { // the drain goroutine ends by itself
			out.mu.Lock()
			idle := !out.draining
			out.mu.Unlock()
			if idle {
				break
			}
			pause(context.Background(), 100*time.Microsecond)
		}
		for {
			op, p, err := readFrame(&sink.written)
			if err != nil {
				break
			}
			if op == opText {
				for line := range bytes.SplitSeq(p, []byte("\n")) {
					if !json.Valid(line) {
						t.Fatalf("%q was answered with %q", data, line)
					}
				}
			}
		}
		for len(n.strands[0].publisher.waiting) > 0 {
			<-n.strands[0].publisher.waiting
		}
	})
}
