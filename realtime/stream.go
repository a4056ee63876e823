package realtime

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/centrifugal/protocol"
)

// stream is the transport of a client that gets an HTTP response which does not end. The handler's goroutine
// writes; everybody else only queues. What waits is bounded by bytes and shared: a frame that goes to many
// clients lies in memory once.
type stream struct {
	format format
	rc     *http.ResponseController
	ready  chan struct{} // capacity 1: something is to be written, or it is over

	mu      sync.Mutex
	queue   [][]byte    // guarded by mu, like all below
	waiting int         // bytes of queue and of what is being written
	why     *Disconnect // the client is being told to go; nothing may follow
	over    bool        // the handler writes no more
}

func newStream(w http.ResponseWriter, f format) *stream {
	return &stream{format: f, rc: http.NewResponseController(w), ready: make(chan struct{}, 1)}
}

// send queues b, which it keeps.
func (s *stream) send(b []byte, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return net.ErrClosed
	case s.why != nil || len(b) == 0:
		return nil
	case s.waiting > 0 && s.waiting+len(b) > limit:
		return errSlow
	}
	s.push(b)
	if end := s.format.endsWith(b); end != nil {
		s.why = end
	}
	return nil
}

// push adds b to the queue. The caller holds mu.
func (s *stream) push(b []byte) {
	s.queue = append(s.queue, b)
	s.waiting += len(b)
	s.wake()
}

func (s *stream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// disconnect queues the protocol's disconnect push behind what waits, or in place of it for a slow client,
// and gives the client closeTimeout to take it.
func (s *stream) disconnect(d *Disconnect) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil || s.over {
		return false
	}
	s.why = d
	if d == disconnectSlow {
		for _, b := range s.queue {
			s.waiting -= len(b)
		}
		s.queue = nil
	}
	s.deadline(closeTimeout)
	s.push(s.format.encode(push(&protocol.Push{Disconnect: &protocol.Disconnect{Code: uint32(d.Code), Reason: d.Reason}})))
	return true
}

// Close ends the response at once; also a write that is under way.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		s.deadline(-time.Second)
		s.wake()
	}
	return nil
}

// deadline bounds the writes. The caller holds mu, and the handler has not returned. Not every
// ResponseWriter can: then the connection's own timeout remains.
func (s *stream) deadline(d time.Duration) { _ = s.rc.SetWriteDeadline(time.Now().Add(d)) }

// take returns what is to be written, and whether nothing comes after it.
func (s *stream) take() (batch [][]byte, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, true
	}
	batch, s.queue = s.queue, nil
	return batch, s.why != nil
}

// run writes until the client is gone or was told to go. Each batch has a deadline of its own, in place of
// the server's for the whole response.
func (s *stream) run(ctx context.Context, w http.ResponseWriter) error {
	for {
		batch, last := s.take()
		if err := s.write(w, batch); err != nil || last {
			return err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *stream) write(w http.ResponseWriter, batch [][]byte) error {
	if len(batch) == 0 {
		return nil
	}
	s.mu.Lock()
	if s.why == nil && !s.over {
		s.deadline(drainTimeOut)
	}
	s.mu.Unlock()
	size := 0
	for _, b := range batch {
		size += len(b)
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write to a stream: %w", err)
		}
	}
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("flush a stream: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting -= size
	if s.why == nil && !s.over {
		_ = s.rc.SetWriteDeadline(time.Time{}) // nothing is under way that could be late
	}
	return nil
}

// end makes sure that nobody touches the response after the handler has returned.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.queue = true, nil
}
