package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// client does one thing after the other, over a connection of its own. One goroutine uses it.
type client interface {
	// do does the i-th thing of a run, which was due at due. An error ends the connection.
	do(i int, due time.Time) error
	close()
}

// openLoop does things when they are due, whatever the server does: a late answer delays no request, and the time of
// each counts from when it was due, so that who waits behind a slow answer counts too.
type openLoop struct {
	total   int
	at      func(i int) time.Duration // when each is due, from the beginning, in order
	warmup  time.Duration             // what was due before does not count
	until   time.Duration             // what was not begun by then is not done; 0: everything is
	workers int                       // how many can be under way: more wait
	connect func(ctx context.Context, worker int) (client, error)
}

// outcome is what came of an open loop.
type outcome struct {
	begin  time.Time
	times  *histogram // of what succeeded, and of the waiting of what was never begun
	tally  Tally
	ended  int       // answered at all, warm-up included
	inTime int       // succeeded before the end
	worst  []float64 // the longest, in ms, of what was due in each second
	last   error     // one of the errors
}

// answerPatience is how long after the end an answer may take.
const answerPatience = 30 * time.Second

// evenly is rate things a second.
func evenly(rate float64) func(int) time.Duration {
	return func(i int) time.Duration { return time.Duration(float64(i) / rate * float64(time.Second)) }
}

// loopWorker is one of those who do it.
type loopWorker struct {
	*openLoop
	number int
	begin  time.Time
	part   *loopPart
}

// loopPart is what some workers enter their outcomes in: one for each of hundreds would be a hundred megabytes.
type loopPart struct {
	mu sync.Mutex
	outcome
}

const neverSent = "not begun in time"

// run does everything. An error is that of the generator, or of a server that breaks its promises; all others are
// counted.
func (o openLoop) run(ctx context.Context) (*outcome, error) {
	begin := time.Now().Add(20 * time.Millisecond)
	workers := min(o.workers, max(o.total, 1))
	parts := make([]*loopPart, min(workers, histograms))
	length := max(o.until, o.at(max(o.total-1, 0)))
	for i := range parts {
		parts[i] = &loopPart{outcome: outcome{begin: begin, times: newHistogram(), worst: make([]float64, int(length.Seconds())+1)}}
	}
	var next atomic.Int64
	bounded, cancel := context.WithDeadline(ctx, begin.Add(length+answerPatience)) // nobody waits for ever
	defer cancel()
	g, gctx := errgroup.WithContext(bounded)
	for i := range workers {
		w := &loopWorker{openLoop: &o, number: i, begin: begin, part: parts[i%len(parts)]}
		g.Go(func() error { return w.run(gctx, &next) })
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	out := &parts[0].outcome
	for _, p := range parts[1:] {
		out.merge(&p.outcome)
	}
	for n := int(next.Load()); n < o.total; n++ { // nobody came to begin these
		out.missed(o.at(n), length, o.warmup)
	}
	return out, nil
}

func (o *outcome) merge(other *outcome) {
	o.times.merge(other.times)
	o.tally.add(&other.tally)
	o.ended, o.inTime = o.ended+other.ended, o.inTime+other.inTime
	if other.last != nil {
		o.last = other.last
	}
	for i, ms := range other.worst {
		o.worst[i] = max(o.worst[i], ms)
	}
}

// missed enters what waited until the end.
func (o *outcome) missed(at, until, warmup time.Duration) {
	if at < warmup {
		return
	}
	o.tally.fail(neverSent, 1)
	o.enter(at, until-at)
}

func (o *outcome) enter(at, took time.Duration) {
	o.times.add(int64(took))
	if second := int(at.Seconds()); second < len(o.worst) {
		o.worst[second] = max(o.worst[second], float64(took.Microseconds())/1000)
	}
}

// run does what is due next, one after the other.
func (w *loopWorker) run(ctx context.Context, next *atomic.Int64) error {
	var c client
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for {
		if w.until > 0 && time.Since(w.begin) > w.until {
			return nil
		}
		i := int(next.Add(1) - 1)
		if i >= w.total {
			return nil
		}
		at := w.at(i)
		due := w.begin.Add(at)
		if time.Until(due) > 0 && !waitUntil(ctx, due.UnixNano()) {
			return ctx.Err() //nolint:wrapcheck // the caller's own
		}
		var err error
		if c == nil { // only now: a server closes connections on which nothing comes
			if c, err = w.connect(ctx, w.number); err != nil {
				c = nil
			}
		}
		if err == nil {
			err = c.do(i, due)
		}
		if errors.Is(err, ErrBroken) || errors.Is(err, ErrWrongAnswer) {
			return err
		}
		w.take(at, time.Now(), err)
		if c != nil && err != nil && !errors.As(err, new(refused)) {
			c.close()
			c = nil
		}
		if ctx.Err() != nil {
			return nil // the time is over; run tells whose fault that is
		}
	}
}

func (w *loopWorker) take(at time.Duration, now time.Time, err error) {
	w.part.mu.Lock()
	defer w.part.mu.Unlock()
	p := &w.part.outcome
	p.ended++
	if err != nil {
		p.last = err
	}
	if at < w.warmup {
		return
	}
	if err != nil {
		p.tally.fail(kindOf(err), 1)
		return
	}
	p.tally.ok(1)
	p.enter(at, now.Sub(w.begin.Add(at)))
	if w.until == 0 || now.Before(w.begin.Add(w.until)) {
		p.inTime++
	}
}

// refused is an answer other than what was asked for: nobody knows whether it was done.
type refused struct {
	kind string // "status 503"
	text string
}

func (r refused) Error() string { return "not acknowledged: " + r.text }

func refusal(status int, body []byte) refused {
	return refused{fmt.Sprintf("status %d", status), fmt.Sprintf("status %d: %.300s", status, body)}
}

// kindOf names an error for a tally.
func kindOf(err error) string {
	var r refused
	var timeout net.Error
	var sql *pgconn.PgError
	switch {
	case errors.As(err, &sql):
		return "SQLSTATE " + sql.Code
	case errors.As(err, &r):
		return r.kind
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, net.ErrClosed), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection closed"
	}
	return "other"
}
