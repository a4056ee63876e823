package realtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

func runPublisher(t testing.TB, l *Log) (*Publisher, context.CancelFunc) {
	t.Helper()
	p := NewPublisher(l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p, cancel
}

func isCode(err error, want *Error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == want.Code
}

func message(channel string, n int) Message {
	return Message{Channel: channel, Data: fmt.Appendf(nil, "%d", n)}
}

// Every caller gets its own messages' offsets, its messages stay together and in order, and all are in the log.
func TestPublishConcurrently(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	p, _ := runPublisher(t, l)
	var mu sync.Mutex
	var all []Message
	var wg sync.WaitGroup
	for c := range 40 {
		wg.Go(func() {
			for n := range 10 {
				sent, err := p.Publish(t.Context(), message(fmt.Sprint("c", c), 2*n), message(fmt.Sprint("c", c), 2*n+1))
				if err != nil || sent[1].Offset != sent[0].Offset+1 {
					t.Errorf("published %v, %v", sent, err)
					return
				}
				mu.Lock()
				all = append(all, sent...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b Message) int { return int(a.Offset) - int(b.Offset) })
	h := must(readRange(t.Context(), l.pool, 0, 1<<60))
	if len(h) != 800 || len(all) != 800 {
		t.Fatalf("%d in the log, %d acknowledged", len(h), len(all))
	}
	for i := range h {
		if h[i].Offset != all[i].Offset || h[i].Channel != all[i].Channel || string(h[i].Data) != string(all[i].Data) {
			t.Fatalf("the log has %v, a caller was told %v", h[i], all[i])
		}
	}
}

// The queue is bounded: what does not fit is refused at once, and nothing of it is published.
func TestPublisherFull(t *testing.T) {
	t.Parallel()
	p := NewPublisher(nil) // nobody runs it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range maxWaiting {
		wg.Go(func() {
			if _, err := p.Publish(ctx, message("c", 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("a publish whose caller left: %v", err)
			}
		})
	}
	eventually(t, 10*time.Second, "the queue is full", func() bool { return len(p.waiting) == maxWaiting })
	_, err := p.Publish(ctx, message("c", 1))
	if !isCode(err, ErrTooManyRequests) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	wg.Wait()
}

// So it is in bytes, however few publishes they are; what has left the queue counts no more, also what is not published.
func TestPublisherFullOfBytes(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	p := NewPublisher(l)
	large := Message{Channel: "c", Data: make([]byte, 1<<20)} // it is never flushed
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const fit = maxWaitingBytes/(1<<20+messageOverhead) - 1
	var wg sync.WaitGroup
	for range fit {
		wg.Go(func() {
			if _, err := p.Publish(ctx, large); !errors.Is(err, context.Canceled) {
				t.Errorf("a publish whose caller left: %v", err)
			}
		})
	}
	eventually(t, 10*time.Second, "the queue is full", func() bool { return len(p.waiting) == fit })
	for range 3 {
		if _, err := p.Publish(ctx, large, large); !isCode(err, ErrTooManyRequests) {
			t.Fatalf("two more: %v", err)
		}
	}
	cancel()
	wg.Wait()
	run, stop := context.WithCancel(t.Context())
	stop()
	if err := p.Run(run); err != nil {
		t.Fatal(err)
	}
	if n := p.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are left of an empty queue", n)
	}
}

// What is published at once is bounded by all of its data, not by that of each channel.
func TestPublishedTogether(t *testing.T) {
	t.Parallel()
	n := startReplica(t, dbtest.New(t), "")
	data := fmt.Appendf(nil, `"%s"`, strings.Repeat("x", 1<<20-3))
	many := make([]Message, 17)
	for i := range many {
		many[i] = Message{Channel: fmt.Sprint("c", i), Data: data}
	}
	if _, err := n.Publish(t.Context(), many...); !isCode(err, ErrLimitExceeded) {
		t.Fatalf("17 MiB: %v", err)
	}
	must(n.Publish(t.Context(), many[:2]...))
	if rows := one[int](t, n.cfg.Pool, "SELECT count(*) FROM forgewire.messages"); rows != 2 {
		t.Errorf("%d messages", rows)
	}
}

// What waits when the publisher is told to stop is published; what comes later is refused.
func TestPublisherStops(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	p := NewPublisher(l)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := p.Publish(t.Context(), message("c", i)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, 10*time.Second, "all wait", func() bool { return len(p.waiting) == 100 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if _, err := p.Publish(t.Context(), message("c", 1)); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}
	if n := one[int](t, l.pool, "SELECT count(*) FROM forgewire.messages"); n != 100 {
		t.Errorf("%d messages", n)
	}
}

// A caller that gives up before its flush began publishes nothing.
func TestPublishCallerLeft(t *testing.T) {
	t.Parallel()
	l, _ := newTestLog(t)
	p := NewPublisher(l)
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, err := p.Publish(left, message("c", 1)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	p2, _ := runPublisher(t, l)
	p2.waiting <- <-p.waiting
	must(p2.Publish(t.Context(), message("c", 2)))
	if n := one[int](t, l.pool, "SELECT count(*) FROM forgewire.messages WHERE data = '1'"); n != 0 {
		t.Error("it was published")
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			l, _ := newTestLog(b)
			p, _ := runPublisher(b, l)
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := p.Publish(context.Background(), message("room:1", 1)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
