package devstack

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// slowAfter is from when on a wait is worth a line.
const slowAfter = time.Second

// progress writes one plain line per event; without a writer it is silent.
type progress struct {
	mu sync.Mutex
	w  io.Writer
}

func (p *progress) line(format string, args ...any) {
	if p == nil || p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// watch waits for the end of child and says what it is waiting for if that takes
// long. It returns ctx's error if that ends first.
func (p *progress) watch(ctx context.Context, child *process, format string, args ...any) error {
	timer := time.NewTimer(slowAfter)
	defer timer.Stop()
	for {
		select {
		case <-child.done:
			return child.err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			p.line(format, args...)
		}
	}
}
