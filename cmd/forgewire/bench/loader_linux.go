package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// loader holds its clients with one thread and one epoll: it has to be far cheaper than the servers that are
// measured with it, with which it shares the CPUs.
type loader struct {
	in, out int
	epoll   int
	clients map[int32]*loadClient // by descriptor
	buf     []byte
	orders  []byte // read and not yet complete

	// The order that is being fulfilled.
	order   *order
	from    int64
	left    int // clients that have not done what it asks for
	server  unix.Sockaddr
	source  unix.Sockaddr
	opened  int    // how many were begun, of the order to open
	request []byte // the handshake
	greet   []byte // the frame that connects
	join    []byte // the frame that subscribes
	times   *histogram
	tally   Tally
}

func runLoader(in, out int) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an epoll: %w", err)
	}
	defer unix.Close(epoll)
	l := &loader{in: in, out: out, epoll: epoll, clients: map[int32]*loadClient{}, buf: make([]byte, 256<<10)}
	defer l.closeAll()
	if err = l.watch(in); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := l.wait(events)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Join(err, l.answer(report{Error: err.Error()}))
		}
		for _, e := range events[:n] {
			if int(e.Fd) == in {
				err = l.read()
			} else {
				err = l.serve(e.Fd)
			}
			if errors.Is(err, io.EOF) {
				return err
			}
			if err != nil {
				return errors.Join(err, l.answer(report{Error: err.Error()}))
			}
		}
		if l.order != nil && l.left == 0 {
			if err = l.answer(l.report()); err != nil {
				return err
			}
			l.order = nil
		}
	}
}

func (l *loader) report() report {
	r := report{From: l.from, To: time.Now().UnixNano(), Tally: l.tally}
	if l.times.h.TotalCount() > 0 {
		r.Times = l.times.h.Export()
	}
	return r
}

// wait waits for events, and lets clients come meanwhile that are due.
func (l *loader) wait(events []unix.EpollEvent) (int, error) {
	for o := l.order; o != nil && o.Open != nil && o.Open.Rate > 0 && l.opened < o.Open.Clients; {
		left := l.dueAt(l.opened) - time.Now().UnixNano()
		if left <= 0 {
			if err := l.dial(); err != nil {
				return 0, err
			}
			continue
		}
		timeout := unix.NsecToTimespec(left)
		// epoll_wait counts in milliseconds.
		if n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(l.epoll), Events: unix.POLLIN}}, &timeout, nil); err != nil || n > 0 {
			break
		}
	}
	if l.order != nil && l.left == 0 {
		return 0, nil // nobody came through: no event tells
	}
	return unix.EpollWait(l.epoll, events, -1) //nolint:wrapcheck // run says what failed
}

// dueAt is when a client is to come.
func (l *loader) dueAt(client int) int64 {
	if rate := l.order.Open.Rate; rate > 0 {
		return l.from + int64(float64(client)/rate*1e9)
	}
	return l.from // all at once
}

func (l *loader) watch(fd int) error {
	err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	if err != nil {
		return fmt.Errorf("watch a descriptor: %w", err)
	}
	return nil
}

// read takes what came of orders. The next one comes after the report on the last.
func (l *loader) read() error {
	n, err := unix.Read(l.in, l.buf)
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	if n == 0 {
		return io.EOF
	}
	l.orders = append(l.orders, l.buf[:n]...)
	line, rest, ok := bytes.Cut(l.orders, []byte("\n"))
	if !ok {
		return nil
	}
	o := &order{}
	if err = json.Unmarshal(line, o); err != nil {
		return fmt.Errorf("decode an order: %w", err)
	}
	l.orders = rest
	l.order, l.from, l.left, l.times, l.tally = o, time.Now().UnixNano(), 0, newHistogram(), Tally{}
	switch {
	case o.Open != nil:
		return l.open(o.Open)
	case o.Await != nil:
		for _, c := range l.clients {
			if c.messages < o.Await.Messages {
				l.left++
			}
		}
	case o.Close != nil:
		l.closeAll()
	}
	return nil
}

func (l *loader) answer(r report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a report: %w", err)
	}
	if _, err = unix.Write(l.out, append(b, '\n')); err != nil {
		return fmt.Errorf("write a report: %w", err)
	}
	return nil
}

func (l *loader) closeAll() {
	for fd := range l.clients {
		_ = unix.Close(int(fd)) // the server will notice
	}
	clear(l.clients)
}

func (l *loader) open(o *openOrder) error {
	server, err := netip.ParseAddrPort(o.Address)
	if err != nil {
		return fmt.Errorf("the server's address: %w", err)
	}
	l.server = &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	l.source = nil
	if o.Source != "" {
		source, err := netip.ParseAddr(o.Source)
		if err != nil {
			return fmt.Errorf("the clients' address: %w", err)
		}
		l.source = &unix.SockaddrInet4{Addr: source.As4()}
	}
	l.request = fmt.Appendf(nil, "GET %s/connection/websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", o.Path, o.Host)
	b, err := json.Marshal(command{ID: 1, Connect: &connectRequest{Token: o.Token}})
	if err != nil {
		return fmt.Errorf("encode a command: %w", err)
	}
	l.greet = clientFrame(b)
	subscribe := map[string]any{"channel": o.Channel}
	if o.Since != nil {
		subscribe["recover"], subscribe["offset"], subscribe["epoch"] = true, o.Since.Offset, o.Since.Epoch
	}
	b, err = json.Marshal(map[string]any{"id": 2, "subscribe": subscribe})
	if err != nil {
		return fmt.Errorf("encode a command: %w", err)
	}
	l.join = clientFrame(b)
	l.left, l.opened = o.Clients, 0
	if o.Rate > 0 {
		return nil // wait lets them come
	}
	for range min(o.Parallel, o.Clients) {
		if err = l.dial(); err != nil {
			return err
		}
	}
	return nil
}

// dial begins one client's handshake. Connecting does not wait, but for a deployment that is not on this machine.
func (l *loader) dial() error {
	due := l.dueAt(l.opened)
	l.opened++
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	l.clients[int32(fd)] = &loadClient{due: due}
	for _, option := range [][2]int{{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}, {unix.IPPROTO_TCP, unix.TCP_NODELAY}} {
		if err = unix.SetsockoptInt(fd, option[0], option[1], 1); err != nil {
			return fmt.Errorf("set up a socket: %w", err)
		}
	}
	if l.source != nil {
		if err = unix.Bind(fd, l.source); err != nil {
			return fmt.Errorf("bind a socket: %w", err)
		}
	}
	if err = unix.Connect(fd, l.server); err != nil {
		return l.lost(int32(fd), fmt.Errorf("connect: %w", err))
	}
	if err = unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set up a socket: %w", err)
	}
	if err = l.watch(fd); err != nil {
		return err
	}
	if err = send(int32(fd), l.request); err != nil {
		return l.lost(int32(fd), err)
	}
	return nil
}

// lost counts a client that did not come through where clients come at a rate; else it is an error.
func (l *loader) lost(fd int32, err error) error {
	c := l.clients[fd]
	if l.order == nil || l.order.Open == nil || l.order.Open.Rate == 0 || errors.Is(err, ErrBroken) || l.reached(c) {
		return err
	}
	l.tally.fail(kindOf(err), 1)
	l.left--
	_ = unix.Close(int(fd)) // it is of no use any more
	delete(l.clients, fd)
	return nil
}

// reached tells whether a client has what the order asks for.
func (l *loader) reached(c *loadClient) bool {
	switch o := l.order; {
	case o == nil:
		return true
	case o.Open != nil:
		return c.state == joined && c.messages >= o.Open.Messages
	case o.Await != nil:
		return c.messages >= o.Await.Messages
	}
	return true
}

// arrived enters a client that has it.
func (l *loader) arrived(c *loadClient) error {
	l.left--
	o := l.order.Open
	if o == nil {
		return nil
	}
	l.tally.ok(1)
	l.times.add(time.Now().UnixNano() - c.due)
	if o.Rate == 0 && l.opened < o.Clients {
		return l.dial()
	}
	return nil
}

func send(fd int32, b []byte) error {
	if n, err := unix.Write(int(fd), b); err != nil || n < len(b) {
		return fmt.Errorf("send: %d of %d bytes: %w", n, len(b), err)
	}
	return nil
}

// serve reads what came for one client.
func (l *loader) serve(fd int32) error {
	c := l.clients[fd]
	if c == nil {
		return nil // closed since
	}
	n, err := unix.Read(int(fd), l.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil || n == 0 {
		return l.lost(fd, fmt.Errorf("the server closed a connection: %w", errors.Join(err, io.ErrUnexpectedEOF)))
	}
	b := l.buf[:n]
	if len(c.rest) > 0 {
		b = append(c.rest, b...)
	}
	before := l.reached(c)
	rest, err := l.take(fd, c, b)
	if err != nil {
		return l.lost(fd, err)
	}
	if c.rest = append(c.rest[:0], rest...); len(rest) == 0 {
		c.rest = nil // most of the time nothing is left: no buffer a client
	}
	if !before && l.reached(c) {
		return l.arrived(c)
	}
	return nil
}
