package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

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
	address string // of the server that its clients connect to
	source  string // its clients' address
	clients int
}

// startCrowd starts the loaders for so many clients of each of the servers; open lets them connect. At least two,
// since the servers have at least two CPUs as well.
func startCrowd(ctx context.Context, binary, channel string, servers []string, clients int) (c *crowd, err error) {
	c = &crowd{channel: channel, clients: clients * len(servers)}
	each := max(2/len(servers), (clients+loaderClients-1)/loaderClients)
	for _, server := range servers {
		for i := range each {
			share := clients*(i+1)/each - clients*i/each
			l, err := startLoader(ctx, binary, server, fmt.Sprintf("127.0.%d.%d", 1+len(c.loaders)/200, 1+len(c.loaders)%200), share)
			if err != nil {
				return nil, errors.Join(err, c.stop())
			}
			c.loaders = append(c.loaders, l)
		}
	}
	return c, nil
}

func startLoader(ctx context.Context, binary, address, source string, clients int) (*loaderProcess, error) {
	l := &loaderProcess{cmd: exec.CommandContext(ctx, binary, "bench", "loader"), address: address, source: source, clients: clients}
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
		return nil, fmt.Errorf("start a loader: %w", err)
	}
	return l, nil
}

// open connects and subscribes all clients, and returns how long that took.
func (c *crowd) open(ctx context.Context, from *since) (time.Duration, error) {
	start := time.Now()
	end, err := c.each(ctx, func(l *loaderProcess) order {
		return order{Open: &openOrder{Address: l.address, Source: l.source, Clients: l.clients, Parallel: loaderParallel, Channel: c.channel, Since: from}}
	})
	return end.Sub(start), err
}

// await waits until every client has so many messages, and returns when that was.
func (c *crowd) await(ctx context.Context, messages int) (time.Time, error) {
	return c.each(ctx, func(*loaderProcess) order { return order{Await: &awaitOrder{Messages: messages}} })
}

// close disconnects all clients.
func (c *crowd) close(ctx context.Context) error {
	_, err := c.each(ctx, func(*loaderProcess) order { return order{Close: &closeOrder{}} })
	return err
}

// each gives every loader an order, and returns when the last one had fulfilled its.
func (c *crowd) each(ctx context.Context, order func(*loaderProcess) order) (end time.Time, err error) {
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
		return end, errors.Join(ctx.Err(), err)
	}
	for _, r := range reports {
		if t := time.Unix(0, r.To); t.After(end) {
			end = t
		}
	}
	return end, nil
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
