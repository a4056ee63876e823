package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
)

const (
	loaderClients  = 5000 // at most, for one loader
	loaderParallel = 32   // handshakes at once
	orderTimeout   = 2 * time.Minute
)

// crowd is many clients on one channel of a contender's, held by loaders.
type crowd struct {
	channel string
	loaders []*loaderProcess
	clients int
}

// loaderProcess is a loader as its owner sees it.
type loaderProcess struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	log     tail
	server  *url.URL // that its clients connect to
	address string   // its IP and port
	source  string   // its clients' address; "" for whichever the system takes
	token   string   // the clients'; "" for none
	clients int
}

// fulfilled is what loaders say when they have done what they were told to.
type fulfilled struct {
	end   time.Time  // the last one's
	times *histogram // of what the order asks for
	tally Tally      // of clients that were to open
}

// startCrowd starts the loaders for so many clients of each of the contender's servers; open lets them connect. At
// least two, since the servers have at least two CPUs as well.
func startCrowd(ctx context.Context, binary, channel string, at *contender, clients int) (c *crowd, err error) {
	c = &crowd{channel: channel, clients: clients * len(at.urls)}
	each := max(2/len(at.urls), (clients+loaderClients-1)/loaderClients)
	for _, server := range at.urls {
		address, err := resolve(ctx, server)
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		for i := range each {
			l := &loaderProcess{server: server, address: address.String(), token: at.token, clients: clients*(i+1)/each - clients*i/each}
			if address.Addr().IsLoopback() {
				l.source = fmt.Sprintf("127.0.%d.%d", 1+len(c.loaders)/200, 1+len(c.loaders)%200)
			}
			if err := l.start(ctx, binary); err != nil {
				return nil, errors.Join(err, c.stop())
			}
			c.loaders = append(c.loaders, l)
		}
	}
	return c, nil
}

// resolve finds the address of a server for the loaders, whose clients speak no TLS.
func resolve(ctx context.Context, server *url.URL) (netip.AddrPort, error) {
	if server.Scheme != "http" {
		return netip.AddrPort{}, errNeedsDevstack{"thousands of clients speak no TLS; or give --url the http:// address of a replica"}
	}
	port, err := strconv.ParseUint(cmp.Or(server.Port(), "80"), 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("the port of %s: %w", server.Host, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", server.Hostname())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find %s: %w", server.Host, err)
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(port)), nil
}

func (l *loaderProcess) start(ctx context.Context, binary string) error {
	l.cmd = exec.CommandContext(ctx, binary, "bench", "loader")
	l.cmd.Stderr = &l.log
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us alone; a loader ends with its input
	in, err := l.cmd.StdinPipe()
	if err == nil {
		var out io.Reader
		if out, err = l.cmd.StdoutPipe(); err == nil {
			l.in, l.out = in, json.NewDecoder(out)
			err = l.cmd.Start()
		}
	}
	if err != nil {
		return fmt.Errorf("start a loader: %w", err)
	}
	return nil
}

// open connects and subscribes all clients: at a rate of all together, or, where that is 0, as fast as the server
// takes them. A client of those that recover from somewhere is there when it has so many messages. With a rate, clients
// that do not come through are counted; without one they are an error.
func (c *crowd) open(ctx context.Context, rate float64, from *since, messages int) (fulfilled, error) {
	return c.each(ctx, func(l *loaderProcess) order {
		return order{Open: &openOrder{Address: l.address, Host: l.server.Host, Path: l.server.Path, Token: l.token, Source: l.source, Clients: l.clients,
			Parallel: loaderParallel, Rate: rate * float64(l.clients) / float64(c.clients), Channel: c.channel, Since: from, Messages: messages}}
	})
}

// await waits until every client has so many messages. Timed tells how long each took from when it was due.
func (c *crowd) await(ctx context.Context, messages int, timed bool) (fulfilled, error) {
	return c.each(ctx, func(*loaderProcess) order { return order{Await: &awaitOrder{Messages: messages, Timed: timed}} })
}

// close disconnects all clients.
func (c *crowd) close(ctx context.Context) error {
	_, err := c.each(ctx, func(*loaderProcess) order { return order{Close: &closeOrder{}} })
	return err
}

// each gives every loader an order, and returns when the last one had fulfilled its.
func (c *crowd) each(ctx context.Context, order func(*loaderProcess) order) (out fulfilled, err error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		for _, l := range c.loaders {
			_ = l.in.Close() // it ends, and its report does not come
		}
	})
	defer stop()
	reports := make([]report, len(c.loaders))
	var g errgroup.Group
	for i, l := range c.loaders {
		g.Go(func() (err error) {
			reports[i], err = l.obey(order(l))
			return err
		})
	}
	if err = g.Wait(); err != nil {
		return out, errors.Join(ctx.Err(), err)
	}
	out.times = newHistogram()
	for _, r := range reports {
		if t := time.Unix(0, r.To); t.After(out.end) {
			out.end = t
		}
		if r.Times != nil {
			out.times.h.Merge(hdrhistogram.Import(r.Times))
		}
		out.tally.add(&r.Tally)
	}
	return out, nil
}

func (l *loaderProcess) obey(o order) (r report, err error) {
	b, err := json.Marshal(o)
	if err != nil {
		return r, fmt.Errorf("encode an order: %w", err)
	}
	if _, err = l.in.Write(append(b, '\n')); err != nil {
		return r, fmt.Errorf("give an order: %w: %s", err, l.log.String())
	}
	if err = l.out.Decode(&r); err != nil {
		return r, fmt.Errorf("wait for a loader: %w: %s", err, l.log.String())
	}
	if r.Error != "" {
		if strings.Contains(r.Error, ErrBroken.Error()) {
			return r, fmt.Errorf("%w (%s)", ErrBroken, r.Error)
		}
		return r, fmt.Errorf("a client: %s", r.Error) //nolint:err113 // it comes from another process
	}
	return r, nil
}

// stop ends the loaders.
func (c *crowd) stop() error {
	for _, l := range c.loaders {
		_ = l.in.Close() // it ends with its input
	}
	for _, l := range c.loaders {
		_ = l.cmd.Wait() // what it failed of was in a report
	}
	c.loaders = nil
	return nil
}
