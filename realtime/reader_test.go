package realtime

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// eachReader runs a test with the watcher, where the system has one, and with a goroutine for each connection.
func eachReader(t *testing.T, test func(t *testing.T, r *testReplica)) {
	for name, prepare := range map[string]func(*Node){
		"watched":  func(*Node) {},
		"portable": func(n *Node) { n.watcher = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newTestReplica(t, dbtest.New(t), nil, prepare))
		})
	}
}

// readers counts the goroutines that read connections, or wait to.
func readers() int {
	buf := make([]byte, 16<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("realtime.(*conn).read("))
}

// parked says that a connection has neither reader nor buffer. It looks as its reader, whom nobody may disturb.
func (c *conn) parked() bool {
	if !c.wakes.CompareAndSwap(0, 1) {
		return false
	}
	without := c.br.Size() == 0
	if !c.wakes.CompareAndSwap(1, 0) {
		c.client.node.workers.serve(c.client.node.life, c)
	}
	return without
}

// reply reads the next frame that is no ping of the protocol.
func (s *rawSocket) reply() (op byte, p []byte, err error) {
	for err == nil {
		if op, p, err = readFrame(s.r); op != opText || !bytes.Equal(p, pong) {
			break
		}
		_ = s.frame(opText, "{}")
	}
	return op, p, err
}

func (r *testReplica) conns() (all []*conn) {
	for _, c := range r.node.hub.all() {
		all = append(all, c.out.(*conn))
	}
	return all
}

// A connection that is idle has nobody who reads it, whatever it did before, and answers as soon as it is spoken to.
func TestIdleConnectionsHaveNoReader(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("each connection has a goroutine here")
	}
	r := newTestReplica(t, dbtest.New(t), nil) // not parallel: it counts goroutines of the whole process
	var all []*rawSocket
	for range 200 {
		s := dialRaw(t, r, "")
		s.connect()
		all = append(all, s)
	}
	idle := func() bool {
		for _, c := range r.conns() {
			if !c.parked() {
				return false
			}
		}
		return readers() == 0
	}
	eventually(t, 20*time.Second, "all are parked", idle)
	for i, s := range all {
		switch i % 4 {
		case 0:
			_ = s.frame(opText, "{}") // a pong of the protocol
		case 1:
			_ = s.frame(0x80|0x09, "beat")
		case 2:
			_ = s.frame(0x80|0x0a, "")
		case 3: // byte by byte
			b := []byte{opText, 0x82, 0, 0, 0, 0, '{', '}'}
			for i := range b {
				_, _ = s.conn.Write(b[i : i+1])
			}
		}
	}
	for i, s := range all {
		if i%4 == 1 {
			if op, p, err := s.reply(); err != nil || op != 0x80|0x0a || string(p) != "beat" {
				t.Fatalf("a ping was answered with %x %q, %v", op, p, err)
			}
		}
		_ = s.frame(opText, fmt.Sprintf(`{"id":%d,"ping":{}}`, i+2))
		if _, p, err := s.reply(); err != nil || !bytes.Contains(p, fmt.Appendf(nil, `"id":%d,`, i+2)) {
			t.Fatalf("client %d got %s, %v", i, p, err)
		}
	}
	eventually(t, 20*time.Second, "all are parked again", idle)
	for _, s := range all {
		_ = s.conn.Close()
	}
	eventually(t, 20*time.Second, "all are gone", func() bool { return r.node.Info().Clients == 0 })
	w := r.node.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.free) != len(w.spots) {
		t.Errorf("%d of %d spots are free", len(w.free), len(w.spots))
	}
}

// What a client sends last is carried out, though its end comes with it; and the end is noticed.
func TestLastWords(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, r *testReplica) {
		for i := range 50 {
			s := dialRaw(t, r, "")
			s.connect()
			_ = s.frame(opText, fmt.Sprintf(`{"id":2,"publish":{"channel":"last","data":%d}}`, i))
			if i%2 == 0 {
				_ = s.conn.(*net.TCPConn).CloseWrite()
			} else {
				_ = s.conn.(*net.TCPConn).SetLinger(-1)
				_ = s.conn.Close()
			}
		}
		eventually(t, 20*time.Second, "all are gone", func() bool { return r.node.Info().Clients == 0 })
		if h := must(r.node.History(t.Context(), "last", HistoryFilter{Limit: -1})); len(h.Messages) != 50 {
			t.Errorf("%d of 50 were published", len(h.Messages))
		}
	})
}

// Descriptors are used again at once where connections come and go; each client gets its own answers all the same,
// and what it sends, in pieces and bursts, is answered in order.
func TestConnectionsComeAndGo(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, r *testReplica) {
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(worker)))
				for range 25 {
					s := dialRaw(t, r, "")
					_ = s.frame(opText, `{"id":1,"connect":{}}`)
					_, _, _ = readFrame(s.r)
					if err := s.chat(random, 40); err != nil {
						t.Error(err)
					}
					_ = s.conn.Close()
				}
			})
		}
		wg.Wait()
		eventually(t, 20*time.Second, "all are gone", func() bool { return r.node.Info().Clients == 0 })
	})
}

// chat sends n commands, cut anywhere, and reads their answers.
func (s *rawSocket) chat(random *rand.Rand, n int) error {
	var out []byte
	for i := range n {
		p := fmt.Appendf(nil, `{"id":%d,"ping":{}%s}`, i+2, strings.Repeat(" ", random.IntN(300)))
		f := frame(opText, p)
		head := len(f) - len(p)
		f[1] |= 0x80
		out = append(append(append(out, f[:head]...), 0, 0, 0, 0), p...)
	}
	answers := make(chan error, 1)
	go func() {
		for i := range n {
			_, p, err := readFrame(s.r)
			if err == nil && bytes.Equal(p, pong) { // there is time to answer it later
				_, p, err = readFrame(s.r)
			}
			if err != nil || !bytes.Contains(p, fmt.Appendf(nil, `"id":%d,`, i+2)) {
				answers <- fmt.Errorf("command %d was answered with %q: %w", i+2, p, err)
				return
			}
		}
		answers <- nil
	}()
	for len(out) > 0 {
		k := min(len(out), 1+random.IntN(400))
		if _, err := s.conn.Write(out[:k]); err != nil {
			break // the answers say what is wrong
		}
		out = out[k:]
	}
	return <-answers
}

// A connection that is told to go while nobody reads it has the time for its answer, and no more. One that breaks while
// nobody reads it is gone at once.
func TestParkedConnectionsEnd(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, r *testReplica) {
		silent, polite, broken := dialRaw(t, r, ""), dialRaw(t, r, ""), dialRaw(t, r, "")
		for _, s := range []*rawSocket{silent, polite, broken} {
			s.connect()
		}
		var all []*conn
		eventually(t, 20*time.Second, "all are there", func() bool { all = r.conns(); return len(all) == 3 })
		of := func(s *rawSocket) *conn {
			for _, c := range all {
				if c.RemoteAddr().String() == s.conn.LocalAddr().String() {
					return c
				}
			}
			t.Fatal("it is not there")
			return nil
		}
		_ = of(broken).Close()
		eventually(t, 20*time.Second, "the broken one is gone", func() bool { return r.node.Info().Clients == 2 })
		of(polite).disconnect(disconnectForced)
		if code := polite.closed(); code != 3503 {
			t.Fatal(code)
		}
		_ = polite.frame(opClose, "\x0d\xaf")
		eventually(t, 20*time.Second, "the polite one is gone", func() bool { return r.node.Info().Clients == 1 })
		began := time.Now()
		of(silent).disconnect(disconnectForced)
		eventually(t, 20*time.Second, "the silent one is gone", func() bool { return r.node.Info().Clients == 0 })
		if took := time.Since(began); took < closeTimeout-time.Second {
			t.Errorf("it had %v", took)
		}
	})
}
