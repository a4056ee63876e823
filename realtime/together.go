package realtime

import (
	"context"
	"errors"
	"sync"
	"time"
)

// together lets many who ask the same share an answer that is dear: one question is under way for each key, and all who
// come meanwhile share the next. So each gets an answer to a question that was asked after he came, as if he had asked
// alone, and the database has one of them at a time, however many ask.
type together[T any] struct {
	within time.Duration // of one question
	mu     sync.Mutex
	now    map[string]*round[T] // being asked
	next   map[string]*round[T] // to be asked when that is over
}

var errUnanswered = errors.New("who asked for all panicked")

type round[T any] struct {
	over   chan struct{} // closed when the rest is set
	answer T
	err    error
}

// ask returns the answer of one question. Who comes first asks it for all: also when he has left, so not with his ctx.
func (t *together[T]) ask(ctx context.Context, key string, answer func(context.Context) (T, error)) (T, error) {
	t.mu.Lock()
	if q := t.next[key]; q != nil {
		t.mu.Unlock()
		select {
		case <-q.over:
			return q.answer, q.err
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	if t.now == nil {
		t.now, t.next = map[string]*round[T]{}, map[string]*round[T]{}
	}
	q, before := &round[T]{over: make(chan struct{}), err: errUnanswered}, t.now[key]
	if before != nil {
		t.next[key] = q
		t.mu.Unlock()
		<-before.over // which has its bound
		t.mu.Lock()
		delete(t.next, key)
	}
	t.now[key] = q
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		if t.now[key] == q {
			delete(t.now, key)
		}
		t.mu.Unlock()
		close(q.over)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.within)
	defer cancel()
	q.answer, q.err = answer(ctx)
	return q.answer, q.err
}
