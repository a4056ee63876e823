package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// crowdSize is how many clients a crowd has: enough to hurt, and few enough for the file descriptors of this
// process and for the race detector.
func crowdSize(t *testing.T) int {
	t.Helper()
	n := 2000 // 5,000 on a machine that has nothing else to do
	if long() {
		n = 5000
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(n)+1000 {
		n = int(limit.Cur) / 2
	}
	return n
}

// member is one of a crowd: a connection, subscribed to one channel, that counts what comes.
type member struct {
	conn *websocket.Conn
	got  atomic.Int64
	at   position // where it goes on from
}

// join connects a member, which subscribes and goes on from where it was, if it was somewhere.
func (m *member) join(ctx context.Context, r *replica) (*subscribeReply, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/connection/websocket", nil) //nolint:bodyclose // the library closes it
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	m.conn = conn
	subscribe := `{"channel":"crowd"}`
	if m.at.Epoch != "" {
		subscribe = fmt.Sprintf(`{"channel":"crowd","recover":true,"offset":%d,"epoch":%q}`, m.at.Offset, m.at.Epoch)
	}
	commands := `{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":` + subscribe + `}`
	if err = conn.Write(ctx, text, []byte(commands)); err != nil {
		return nil, err
	}
	raw := &rawClient{conn: conn}
	for {
		re, code, err := raw.next(30 * time.Second)
		switch {
		case err != nil:
			return nil, err
		case code != 0:
			return nil, fmt.Errorf("closed with %d", code)
		case re.Error != nil:
			return nil, re.Error
		case re.Subscribe != nil:
			return re.Subscribe, nil
		}
	}
}

// follow counts publications until the connection ends.
func (m *member) follow() {
	for {
		_, frame, err := m.conn.Read(context.Background())
		if err != nil {
			return
		}
		for line := range bytes.SplitSeq(frame, []byte("\n")) {
			if string(line) == "{}" { // a ping
				if err = m.conn.Write(context.Background(), text, line); err != nil {
					return
				}
			}
			if bytes.Contains(line, []byte(`"pub":`)) {
				m.got.Add(1)
			}
		}
	}
}

// gather joins all members at once, as far as the listen queue allows, and returns how long that took.
func gather(t *testing.T, c *cluster, members []*member, check func(*subscribeReply) string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	var refused atomic.Pointer[string]
	doors := make(chan struct{}, 500)
	for i, m := range members {
		wg.Go(func() {
			doors <- struct{}{}
			defer func() { <-doors }()
			re, err := m.join(ctx, c.replicas[i%len(c.replicas)])
			why := ""
			if err != nil {
				why = err.Error()
			} else {
				why = check(re)
			}
			if why != "" {
				refused.Store(&why)
			}
		})
	}
	wg.Wait()
	if why := refused.Load(); why != nil {
		t.Fatalf("a member of the crowd: %s", *why)
	}
	return time.Since(began)
}

// Thousands of clients lose their connections while the database is away, and come back at once when it is
// back. Each gets what it missed, and no replica falls over.
func TestCrowdComesBack(t *testing.T) {
	heavy(t)
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server, env: []string{"FORGEWIRE_NAMESPACES="}})
	members := make([]*member, crowdSize(t))
	for i := range members {
		members[i] = &member{}
	}
	gather(t, c, members, func(*subscribeReply) string { return "" })
	start := c.replicas[0].mustPublish("crowd", body("before"))
	for i := range 20 {
		c.replicas[i%2].mustPublish("crowd", body(fmt.Sprint("missed-", i)))
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		_ = m.conn.CloseNow()
		m.at = start
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range c.replicas {
		r.waitReady(45 * time.Second)
	}
	took := gather(t, c, members, func(re *subscribeReply) string {
		if !re.Recovered || len(re.Publications) != 20 {
			return fmt.Sprintf("recovered %t, %d of 20", re.Recovered, len(re.Publications))
		}
		return ""
	})
	for _, m := range members {
		go m.follow()
		t.Cleanup(func() { _ = m.conn.CloseNow() })
	}
	c.replicas[0].mustPublish("crowd", body("after"))
	until(t, 30*time.Second, "all having the next message", func() string { return lacking(members, 1) })
	t.Logf("%d clients came back, each with 20 missed messages, in %v", len(members), took.Round(time.Millisecond))
}

func lacking(members []*member, want int64) string {
	n := 0
	for _, m := range members {
		if m.got.Load() < want {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d have less than %d", n, len(members), want)
}

// One subscriber that never reads is told to go, and the thousands of others get everything.
func TestCrowdBesideOneThatNeverReads(t *testing.T) {
	variant(t)
	heavy(t)
	c := newCluster(t, 1, options{env: []string{"FORGEWIRE_NAMESPACES="}})
	r := c.replicas[0]
	members := make([]*member, crowdSize(t))
	for i := range members {
		members[i] = &member{}
	}
	gather(t, c, members, func(*subscribeReply) string { return "" })
	for _, m := range members {
		go m.follow()
		t.Cleanup(func() { _ = m.conn.CloseNow() })
	}
	deaf := joinDeaf(t, r)
	defer deaf.Close()
	const messages = 40
	large := strings.Repeat("x", 64<<10)
	var worst time.Duration
	for i := range messages {
		at := time.Now()
		r.mustPublish("crowd", map[string]any{"n": i, "pad": large[:1+i%2*len(large)/2]})
		until(t, 30*time.Second, "all having the message", func() string { return lacking(members, int64(i+1)) })
		worst = max(worst, time.Since(at))
	}
	until(t, 30*time.Second, "the deaf one being gone", func() string {
		var info struct {
			Nodes []struct {
				Clients int `json:"num_clients"`
			} `json:"nodes"`
		}
		if err := r.call(t.Context(), "info", struct{}{}, &info); err != nil {
			return err.Error()
		}
		if len(info.Nodes) != 1 || info.Nodes[0].Clients != len(members) {
			return fmt.Sprintf("%+v", info)
		}
		return ""
	})
	t.Logf("%d clients had %d messages; the slowest took %v to reach all", len(members), messages, worst.Round(time.Millisecond))
}

// joinDeaf subscribes a connection that reads nothing from then on, not even into the kernel's buffer.
func joinDeaf(t *testing.T, r *replica) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }); e != nil {
			return e
		}
		return err
	}}
	tcp, err := dialer.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	hello := "GET /connection/websocket HTTP/1.1\r\nHost: " + r.addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err = tcp.Write([]byte(hello)); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"crowd"}}`} {
		frame := append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...) // masked with zeros
		if _, err = tcp.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	var read strings.Builder
	buf := make([]byte, 4096)
	until(t, 10*time.Second, "the subscription", func() string {
		_ = tcp.SetReadDeadline(time.Now().Add(time.Second))
		n, err := tcp.Read(buf)
		if read.Write(buf[:n]); strings.Contains(read.String(), `"subscribe":`) {
			return ""
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return read.String()
	})
	return tcp
}

// A client with as many channels as one may have loses its connection and gets all of them back.
func TestThousandChannels(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	const channels = 1000
	first := c.replicas[0].mustPublish("c:0", body("first"))
	subscribe := func(r *replica, at position, wantRecovered int) {
		raw := dialRaw(t, r)
		raw.connect("")
		// Who asks for no past gets some of it from a replica that is behind: this one has come as far as the marker.
		raw.must(`{"id":6000,"subscribe":{"channel":"marker"}}`)
		r.mustPublish("marker", body("marker"))
		for came := false; !came; {
			re, code, err := raw.next(20 * time.Second)
			if err != nil || code != 0 {
				t.Fatalf("%d, %v", code, err)
			}
			came = re.Push != nil && re.Push.Pub != nil
		}
		raw.must(`{"id":6001,"unsubscribe":{"channel":"marker"}}`)
		var frame strings.Builder
		for i := range channels {
			fmt.Fprintf(&frame, `{"id":%d,"subscribe":{"channel":"c:%d","recover":%t,"offset":%d,"epoch":%q}}`+"\n", i+2, i, at.Epoch != "", at.Offset, at.Epoch)
		}
		raw.send(text, []byte(frame.String()))
		recovered, subscribed := 0, 0
		for subscribed < channels || recovered < wantRecovered {
			re, code, err := raw.next(20 * time.Second)
			switch {
			case err != nil || code != 0 || re.Error != nil:
				t.Fatalf("%+v, %d, %v", re, code, err)
			case re.Subscribe != nil:
				subscribed++
				recovered += len(re.Subscribe.Publications)
			case re.Push != nil && re.Push.Pub != nil: // this replica was behind
				recovered++
			}
		}
		if recovered != wantRecovered {
			t.Errorf("recovered %d, want %d", recovered, wantRecovered)
		}
		if re, _ := raw.ask(`{"id":5000,"subscribe":{"channel":"one:more"}}`); re.Error == nil || re.Error.Code != 106 {
			t.Errorf("one channel more: %+v", re)
		}
	}
	subscribe(c.replicas[0], position{}, 0)
	all := make([]string, channels)
	for i := range all {
		all[i] = fmt.Sprint("c:", i)
	}
	if err := c.replicas[1].call(t.Context(), "broadcast", map[string]any{"channels": all, "data": body("missed")}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	subscribe(c.replicas[1], first, channels)
}
