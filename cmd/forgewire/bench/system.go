package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
)

// histograms bounds how many a measurement uses: those who record share them.
const histograms = 16

// system is a deployment to be measured from outside.
type system struct {
	replicas []*url.URL
	apiKey   string
	token    string  // of subscribers; "" for anonymous ones
	watched  watched // whose CPU time is measured
}

// measure publishes over HTTP and receives over WebSocket, both spread over the replicas.
func (s *system) measure(ctx context.Context, l load, subscribers, channels int) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, l.whole())
	defer cancel()
	names := make([]string, channels)
	for i := range names {
		names[i] = fmt.Sprintf("bench-%s-%d", rand.Text()[:8], i)
	}
	receivers, err := s.receivers(ctx, subscribers, names)
	defer func() { closeAll(receivers) }()
	if err != nil {
		return nil, err
	}
	out := newSample()
	publishers := make([]*publisher, l.publishers)
	for i := range publishers {
		publishers[i] = &publisher{number: i, publish: newHistogramOf(i, publishers)}
	}
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(failed, func() { closeAll(receivers) })() // a network call ends when its connection does
	w := l.window()
	var publishing, rest errgroup.Group
	publishing.Go(func() error { return s.publish(failed, l, w, publishers, names) })
	for i, r := range receivers {
		rest.Go(func() error {
			err := r.run(w)
			if err != nil {
				fail(fmt.Errorf("subscriber %d: %w", i, err))
			}
			return nil
		})
	}
	rest.Go(func() error { out.cpu = s.watched.during(failed, w); return nil })
	if err = publishing.Wait(); err == nil {
		err = s.finish(failed, l, names)
	}
	if err != nil {
		fail(err)
	}
	_ = rest.Wait() // they report through fail
	if failed.Err() != nil {
		return nil, blame(context.Cause(failed), receivers)
	}
	return out.collect(l, publishers, receivers)
}

// publish lets the publishers do their work, in a closed or an open loop.
func (s *system) publish(ctx context.Context, l load, w window, publishers []*publisher, channels []string) error {
	dial := func(ctx context.Context, i int) (*publishConn, error) {
		return dialPublish(ctx, s.replicas[i%len(s.replicas)], s.apiKey, channels[i%len(channels)], l.size)
	}
	if l.rate > 0 {
		_, err := openLoop{total: int(l.rate * (l.warmup + l.duration).Seconds()), at: evenly(l.rate), workers: len(publishers),
			connect: func(ctx context.Context, i int) (client, error) {
				c, err := dial(ctx, i)
				return &timely{publisher: publishers[i], conn: c, window: w}, err
			}}.run(ctx)
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range publishers {
		g.Go(func() error {
			c, err := dial(ctx, i)
			if err != nil {
				return err
			}
			defer c.close()
			return p.run(w, c.data, c.publish)
		})
	}
	return g.Wait() //nolint:wrapcheck // they say which publisher it was
}

func closeAll(receivers []*receiver) {
	for _, r := range receivers {
		r.close()
	}
}

// blame says what a measurement failed of, and how far it came where something did not arrive.
func blame(err error, receivers []*receiver) error {
	for i, r := range receivers {
		if !r.ledger.complete() {
			return fmt.Errorf("%w (subscriber %d has received %d messages and lacks the last)", err, i, r.ledger.total())
		}
	}
	return err
}

// newHistogramOf lets publishers share histograms.
func newHistogramOf(i int, made []*publisher) *histogram {
	if i < histograms {
		return newHistogram()
	}
	return made[i%histograms].publish
}

// receivers subscribes to all channels.
func (s *system) receivers(ctx context.Context, n int, channels []string) ([]*receiver, error) {
	receivers := make([]*receiver, 0, n)
	for i := range n {
		sub, err := subscribe(ctx, s.replicas[i%len(s.replicas)], s.token, channels)
		if err != nil {
			return receivers, err
		}
		r := &receiver{subscriber: sub, ledger: newLedger(len(channels), i == 0)}
		if i < histograms {
			r.latency = newHistogram()
		} else {
			r.latency = receivers[i%histograms].latency
		}
		receivers = append(receivers, r)
	}
	return receivers, nil
}

// finish publishes the last message of each channel: who has it has everything.
func (s *system) finish(ctx context.Context, l load, channels []string) error {
	for i, name := range channels {
		c, err := dialPublish(ctx, s.replicas[0], s.apiKey, name, l.size)
		if err != nil {
			return err
		}
		stamp(c.data, endOfRun, i)
		_, err = c.publish()
		c.close()
		if err != nil {
			return fmt.Errorf("publish the last message: %w", err)
		}
	}
	return nil
}

// collect sums up, and checks.
func (s *sample) collect(l load, publishers []*publisher, receivers []*receiver) (*sample, error) {
	s.seconds = l.duration.Seconds()
	for i, p := range publishers {
		s.acked += p.acked
		s.tally.add(&p.tally)
		if p.refusal != nil {
			s.refusal = p.refusal
		}
		if i < histograms {
			s.publish.merge(p.publish)
		}
	}
	ledgers := make([]*ledger, len(receivers))
	for i, r := range receivers {
		ledgers[i] = r.ledger
		s.delivered += r.delivered
		if i < histograms {
			s.receive.merge(r.latency)
		}
	}
	var err error
	s.checked, err = check(publishers, ledgers)
	return s, err
}

// receiver takes what a subscriber receives. It is used by one goroutine.
type receiver struct {
	*subscriber
	ledger    *ledger
	latency   *histogram
	delivered int // in the window

	// Who publishes from this number on has a histogram of his own, guarded by latency's lock; nil where nobody does.
	fromSQL int
	sql     *histogram
}

// run receives until every channel's last message came.
func (r *receiver) run(w window) error {
	for !r.ledger.complete() {
		// Without a deadline: a timer a frame costs more than the frame.
		frame, err := r.next(context.Background())
		if err != nil {
			return err
		}
		if err = r.take(frame, time.Now().UnixNano(), w); err != nil {
			return err
		}
	}
	return nil
}

// take enters the messages of a frame that came at now.
func (r *receiver) take(frame []byte, now int64, w window) error {
	r.latency.mu.Lock()
	defer r.latency.mu.Unlock()
	for {
		a, rest, ok := findMessage(frame)
		if !ok {
			return nil
		}
		offset, rest, ok := findOffset(rest)
		if !ok {
			return fmt.Errorf("%w: a message came without its offset", ErrBroken)
		}
		frame = rest
		load, err := r.ledger.enter(a, offset)
		if err != nil {
			return err
		}
		if load && w.has(now) {
			r.delivered++
		}
		switch {
		case !load || !w.has(a.sent):
		case r.sql != nil && a.publisher >= r.fromSQL:
			r.sql.add(now - a.sent)
		default:
			r.latency.add(now - a.sent)
		}
	}
}
