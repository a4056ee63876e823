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
	defer func() { closeAll(receivers, nil) }()
	if err != nil {
		return nil, err
	}
	conns, err := s.dial(ctx, l, names)
	defer func() { closeAll(nil, conns) }()
	if err != nil {
		return nil, err
	}

	w := l.window()
	out := newSample()
	publishers := make([]*publisher, len(conns))
	var publishing, rest errgroup.Group
	for i, c := range conns {
		publishers[i] = &publisher{number: i, publish: newHistogramOf(i, publishers)}
		publishing.Go(func() error { return publishers[i].run(w, c.data, c.publish) })
	}
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(failed, func() { closeAll(receivers, conns) })() // a network call ends when its connection does
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

func closeAll(receivers []*receiver, conns []*httpConn) {
	for _, r := range receivers {
		r.close()
	}
	for _, c := range conns {
		_ = c.Close() // everything was acknowledged, or an error says so
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

func (s *system) dial(ctx context.Context, l load, channels []string) ([]*httpConn, error) {
	conns := make([]*httpConn, 0, l.publishers)
	for i := range l.publishers {
		c, err := dialHTTP(ctx, s.replicas[i%len(s.replicas)], s.apiKey, channels[i%len(channels)], l.size)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// finish publishes the last message of each channel: who has it has everything.
func (s *system) finish(ctx context.Context, l load, channels []string) error {
	for i, name := range channels {
		c, err := dialHTTP(ctx, s.replicas[0], s.apiKey, name, l.size)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		stamp(c.data, endOfRun, i)
		_, err = c.publish()
		stop()
		_ = c.Close()
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
		if s.refused += p.refused; p.refused > 0 {
			s.refusal = p.refusal.Error()
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
		if load && w.has(a.sent) {
			r.latency.add(now - a.sent)
		}
	}
}
