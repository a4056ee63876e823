package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/realtime"
)

// floorDatabase is apart from that of the replicas, on the same server: their listeners, which would hear
// every NOTIFY, cost the floor nothing.
const floorDatabase = "forgewire_floor"

const floorChannel = "bench"

// prepareFloor makes the floor's database on the server of url and returns its URL.
func prepareFloor(ctx context.Context, server string) (string, error) {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(ctx)
	if _, err = conn.Exec(ctx, "CREATE DATABASE "+floorDatabase); err != nil {
		return "", fmt.Errorf("make the floor's database: %w", err)
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("read the server's URL: %w", err)
	}
	u.Path = "/" + floorDatabase
	return u.String(), db.Migrate(ctx, u.String())
}

// measureFloor does what a deployment does at the least: group commits, one committer a replica, and one
// connection for each replica that hears of them; no HTTP, no WebSocket, no other process.
func measureFloor(ctx context.Context, database string, l load, replicas, hear int, cpu watched) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, l.whole())
	defer cancel()
	listeners := make([]*floorListener, hear)
	for i := range listeners {
		f, err := listen(ctx, database)
		if err != nil {
			return nil, err
		}
		defer f.conn.Close(context.WithoutCancel(ctx))
		listeners[i] = f
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var background, listening, publishing errgroup.Group
	committers := make([]*realtime.Publisher, replicas)
	for i := range committers {
		pool, err := db.NewPool(ctx, db.PoolConfig{URL: database})
		if err != nil {
			return nil, err
		}
		defer pool.Close()
		committers[i] = realtime.NewPublisher(realtime.NewLog(pool))
	}
	for _, c := range committers {
		background.Go(func() error { return c.Run(running) })
	}

	w := l.window()
	for _, f := range listeners {
		listening.Go(func() error { return f.run(ctx, w) })
	}
	publishers := make([]*publisher, l.publishers)
	for i := range publishers {
		publishers[i] = &publisher{number: i, publish: newHistogramOf(i, publishers)}
		data := newData(l.size)
		publishing.Go(func() error {
			return publishers[i].run(w, data, func() (uint64, error) { return publishDirectly(ctx, committers[i%replicas], data) })
		})
	}
	out := newSample()
	background.Go(func() error { out.cpu = cpu.during(running, w); return nil })
	err := publishing.Wait()
	if err == nil {
		last := newData(l.size)
		stamp(last, endOfRun, 0)
		_, err = publishDirectly(ctx, committers[0], last)
	}
	if err != nil {
		cancel()
	}
	err = errors.Join(err, listening.Wait())
	stop()
	if err = errors.Join(err, background.Wait()); err != nil {
		return nil, fmt.Errorf("measure the floor: %w", err)
	}
	return out.collectFloor(l, publishers, listeners)
}

func publishDirectly(ctx context.Context, p *realtime.Publisher, data []byte) (uint64, error) {
	sent, err := p.Publish(ctx, realtime.Message{Channel: floorChannel, Data: data})
	if err != nil {
		return 0, err
	}
	return sent[0].Offset, nil
}

func (s *sample) collectFloor(l load, publishers []*publisher, listeners []*floorListener) (*sample, error) {
	s.seconds = l.duration.Seconds()
	total := 0
	for i, p := range publishers {
		s.acked += p.acked
		s.tally.add(&p.tally)
		total += len(p.offsets)
		if i < histograms {
			s.publish.merge(p.publish)
		}
	}
	for i, f := range listeners {
		if f.heard != total {
			return nil, fmt.Errorf("%w: listener %d of the floor heard of %d messages of %d", ErrBroken, i, f.heard, total)
		}
		s.delivered += f.delivered
		s.receive.merge(f.latency)
	}
	s.checked = total
	return s, nil
}

// floorListener is one connection that hears of every append. It is used by one goroutine.
type floorListener struct {
	conn      *pgx.Conn
	latency   *histogram
	heard     int
	delivered int // in the window
}

func listen(ctx context.Context, database string) (*floorListener, error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	if _, err = conn.Exec(ctx, "LISTEN forgewire"); err != nil {
		conn.Close(ctx)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &floorListener{conn: conn, latency: newHistogram()}, nil
}

// run listens until the last message came.
func (f *floorListener) run(ctx context.Context, w window) error {
	stop := context.AfterFunc(ctx, func() { _ = f.conn.PgConn().Conn().Close() })
	defer stop()
	for {
		n, err := f.conn.WaitForNotification(context.WithoutCancel(ctx)) // watching a context costs more than a message
		if err != nil {
			return fmt.Errorf("wait for a notification: %w", err)
		}
		now := time.Now().UnixNano()
		rest := []byte(n.Payload)
		for {
			a, r, ok := findMessage(rest)
			if !ok {
				break
			}
			if a.publisher == endOfRun {
				return nil
			}
			rest = r
			f.heard++
			if w.has(now) {
				f.delivered++
			}
			if w.has(a.sent) {
				f.latency.record(now - a.sent)
			}
		}
	}
}
