package realtime

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// tcpPair returns two ends of a real TCP connection with small buffers, so that writes come up short.
func tcpPair(t testing.TB) (ours, theirs *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = b.(*net.TCPConn), a.(*net.TCPConn)
	for _, err = range []error{ours.SetWriteBuffer(16 << 10), theirs.SetReadBuffer(64 << 10)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// noFD hides a connection's file descriptor, as TLS does: the portable path.
type noFD struct{ net.Conn }

// readFrame reads one unmasked frame.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	h := make([]byte, 2, 10)
	if _, err = io.ReadFull(r, h); err != nil {
		return 0, nil, err
	}
	n := uint64(h[1])
	if k := map[uint64]int{126: 2, 127: 8}[n]; k > 0 {
		ext := make([]byte, 8)
		if _, err = io.ReadFull(r, ext[8-k:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(ext)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return h[0], payload, err
}

func eachPath(t *testing.T, f func(t *testing.T, ours net.Conn, theirs *net.TCPConn)) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"fd":       func(c net.Conn) net.Conn { return c },
		"portable": func(c net.Conn) net.Conn { return noFD{c} },
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			ours, theirs := tcpPair(t)
			f(t, wrap(ours), theirs)
			ours.Close()
		})
	}
}

// Frames of every length encoding arrive whole and in order, though the reader is slow to take them.
func TestSendKeepsOrder(t *testing.T) {
	eachPath(t, func(t *testing.T, ours net.Conn, theirs *net.TCPConn) {
		c := newConn(ours)
		var want [][]byte
		for i := range 60 {
			p := bytes.Repeat([]byte{byte(i)}, []int{10, 125, 126, 3000, 70000}[i%5])
			want = append(want, p)
			if err := c.send(frame(opText, p), 100<<20); err != nil {
				t.Fatal(err)
			}
		}
		for i, w := range want {
			if _, p, err := readFrame(theirs); err != nil || !bytes.Equal(p, w) {
				t.Fatalf("frame %d: %d bytes of %v, %v", i, len(p), p[:1], err)
			}
		}
	})
}

// A client that does not read is told why it is disconnected, after the frame that had begun, as soon as it
// reads again; what waited behind is dropped, since it resumes from its position.
func TestSlowConsumer(t *testing.T) {
	eachPath(t, func(t *testing.T, ours net.Conn, theirs *net.TCPConn) {
		c := newConn(ours)
		f := frame(opText, bytes.Repeat([]byte("x"), 100<<10))
		var err error
		for range 1000 {
			if err = c.send(f, maxPending); err != nil {
				break
			}
		}
		if !errors.Is(err, errSlow) {
			t.Fatalf("100 MB were taken: %v", err)
		}
		c.mu.Lock()
		waiting := len(c.pending)
		c.mu.Unlock()
		if waiting > maxPending {
			t.Fatalf("%d bytes wait", waiting)
		}
		if !c.disconnect(disconnectSlow) || c.disconnect(disconnectSlow) {
			t.Fatal("disconnect must happen once")
		}
		for {
			op, p, err := readFrame(theirs)
			if err != nil {
				t.Fatalf("no close frame: %v", err)
			}
			if op == opClose {
				if code := binary.BigEndian.Uint16(p); code != 3008 {
					t.Fatalf("code %d", code)
				}
				break
			}
			if len(p) != 100<<10 {
				t.Fatalf("a frame of %d bytes", len(p))
			}
		}
	})
}

// A client that never reads again is gone in the end.
func TestDisconnectEnds(t *testing.T) {
	eachPath(t, func(t *testing.T, ours net.Conn, theirs *net.TCPConn) {
		c := newConn(ours)
		f := frame(opText, bytes.Repeat([]byte("x"), 1<<20))
		for range 20 {
			_ = c.send(f, 100<<20)
		}
		c.disconnect(disconnectShutdown)
		_ = c.SetDeadline(time.Now()) // the deadline that disconnect set, turned forward
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("the reader goes on")
		}
	})
}

func TestRestOfFrame(t *testing.T) {
	var b []byte
	var ends []int
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		b = append(b, frame(opText, make([]byte, n))...)
		ends = append(ends, len(b))
	}
	i := 0
	for n := range b {
		if n > ends[i] {
			i++
		}
		want := ends[i] - n
		if n == 0 || i > 0 && n == ends[i-1] {
			want = 0
		}
		if got := restOfFrame(b, n); got != want {
			t.Fatalf("after %d bytes %d are left of the frame, want %d", n, got, want)
		}
	}
}
