package stream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A client that reads a byte a second is not waited for: when it has not accepted a chunk in its time, the response is cut,
// and whoever gave the rows has long let go of what he read them with.
func TestWhoReadsNextToNothingIsCut(t *testing.T) {
	t.Parallel()
	const within = 3 * time.Second
	ended := make(chan time.Duration, 1)
	rows := make(chan struct{}, 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began := time.Now()
		defer func() { ended <- time.Since(began) }() // Copy ends it with a panic
		s := New(w, NDJSON, nil, nil)
		s.within = within
		_ = s.Copy(func(int) (bool, error) {
			for room := true; room; {
				var err error
				if room, err = s.Row(strings.Repeat("x", 1000), nil); err != nil {
					return false, err
				}
				rows <- struct{}{}
			}
			return true, nil
		})
	}))
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	one := bufio.NewReaderSize(conn, 16)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case <-tick.C:
			_, _ = one.ReadByte() // it may be over by now
		case took := <-ended:
			if took < within {
				t.Errorf("it was cut after %v", took)
			}
			if n := len(rows); n > 64<<10 { // 64 MB: what the kernel takes, and a chunk
				t.Errorf("%d rows were made for a client that reads nothing", n)
			}
			return
		case <-deadline:
			t.Fatal("it is waited for")
		}
	}
}

// Of large rows few are read that have no room, wherever they are in the table: a database sends all that it was asked for.
func TestFewRowsAreReadInVain(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<20)
	for name, size := range map[string]func(row int) int{
		"large":            func(int) int { return 1 << 18 },
		"small":            func(int) int { return 100 },
		"large at the end": func(row int) int { return 100 + row/300<<18 },
		"by turns":         func(row int) int { return 100 + row/100%2<<18 },
	} {
		const rows = 400
		asked, at := 0, 0
		s := New(discard{}, CSV, []string{"x"}, nil)
		err := s.Copy(func(n int) (bool, error) {
			left := min(n, rows-at)
			asked += left
			for range left {
				at++
				if room, err := s.Row(nil, []string{long[:size(at-1)]}); err != nil || !room {
					return true, err
				}
			}
			return left == n, nil
		})
		if err != nil || at != rows || asked > 2*rows {
			t.Errorf("%s: %d rows were sent and %d read, %v", name, at, asked, err)
		}
	}
}

// discard is a client that takes everything.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}
func (discard) Flush()                      {}
