package realtime

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds of the publisher. A flush is one transaction; what arrives meanwhile waits for the next.
const (
	maxFlushMessages = 1000
	maxFlushBytes    = 4 << 20
	maxWaiting       = 8192            // publishes that may wait; one more gets ErrTooManyRequests
	maxWaitingBytes  = 64 << 20        // of them
	maxTogether      = MaxMessageBytes // of data that one caller publishes at once, each channel's counted: they are one transaction
	messageOverhead  = 256             // bytes that a message takes beside its data
	flushTimeout     = 5 * time.Second // then the callers get an error, and nobody knows if it was published
)

// errClosed says that this replica is shutting down: nothing was published.
var errClosed = ErrInternal.With("the server is shutting down")

// Publisher appends what callers publish, in group commits: one flush at a time takes whatever arrived
// while the last one was under way. There is no timer: an idle publish leaves at once, a busy one shares.
type Publisher struct {
	log     *Log
	waiting chan *publish
	bytes   atomic.Int64  // of what waits
	closed  chan struct{} // closed when Run has returned
	stats   *flushStats
}

// A publish is one caller's messages; they are appended together and stay in order.
type publish struct {
	ctx      context.Context // the caller's: one that gave up before the flush is left out
	messages []Message
	done     chan error // buffered: the flush never waits for a caller
}

// NewPublisher returns a publisher for log; Run starts it.
func NewPublisher(log *Log) *Publisher {
	return &Publisher{log: log, waiting: make(chan *publish, maxWaiting), closed: make(chan struct{}), stats: newFlushStats()}
}

// Publish appends messages, which must have passed the checks of Node.Check, in one transaction and sets
// their offsets. After an error other than ErrTooManyRequests
// and errClosed the messages may have been published or not.
func (p *Publisher) Publish(ctx context.Context, messages ...Message) ([]Message, error) {
	w := &publish{ctx: ctx, messages: messages, done: make(chan error, 1)}
	select {
	case <-p.closed:
		return nil, errClosed
	default:
	}
	if p.bytes.Add(w.size()) > maxWaitingBytes {
		p.bytes.Add(-w.size())
		return nil, ErrTooManyRequests.With("too many bytes are waiting to be published")
	}
	select {
	case p.waiting <- w:
	default:
		p.bytes.Add(-w.size())
		return nil, ErrTooManyRequests.With("too many publishes are waiting")
	}
	select {
	case err := <-w.done:
		return messages, err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the flush: %w", ctx.Err())
	case <-p.closed:
		select {
		case err := <-w.done:
			return messages, err
		default:
			return nil, errClosed
		}
	}
}

// Run flushes until ctx ends, and then what still waits. It returns when nothing is under way.
func (p *Publisher) Run(ctx context.Context) error {
	defer close(p.closed)
	for {
		select {
		case first := <-p.waiting:
			p.flush(p.gather(first))
		case <-ctx.Done():
			for {
				select {
				case first := <-p.waiting:
					p.flush(p.gather(first))
				default:
					return nil
				}
			}
		}
	}
}

// gather takes first and what waits behind it, up to the bounds of a flush, but for those whose caller left.
func (p *Publisher) gather(first *publish) (batch []*publish) {
	count, size := 0, 0
	for next := first; ; {
		p.bytes.Add(-next.size())
		if next.ctx.Err() == nil {
			batch = append(batch, next)
			count += len(next.messages)
			size += sizeOf(next.messages)
		}
		if count >= maxFlushMessages || size >= maxFlushBytes {
			return batch
		}
		select {
		case next = <-p.waiting:
		default:
			return batch
		}
	}
}

func (w *publish) size() int64 { return int64(sizeOf(w.messages) + len(w.messages)*messageOverhead) }

func sizeOf(messages []Message) (n int) {
	for i := range messages {
		n += len(messages[i].Data)
	}
	return n
}

// flush appends a batch and answers its callers. It has a deadline of its own: callers share it, so the
// first one to give up must not take the others along.
func (p *Publisher) flush(batch []*publish) {
	var messages []Message
	for _, w := range batch {
		messages = append(messages, w.messages...)
	}
	if len(messages) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	began := time.Now()
	err := appendTo(ctx, p.log.pool, p.log.generation.Load(), messages)
	if err != nil && pgconn.SafeToRetry(err) && ctx.Err() == nil {
		err = appendTo(ctx, p.log.pool, p.log.generation.Load(), messages) // a pooled connection had died; nothing was sent
	}
	p.stats.flushed(messages, began, err)
	i := 0
	for _, w := range batch {
		if err == nil {
			for j := range w.messages {
				w.messages[j].Offset = messages[i].Offset
				i++
			}
		}
		w.done <- err
	}
}
