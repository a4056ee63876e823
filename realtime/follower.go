package realtime

import (
	"context"
	"math"
)

// logReader is what a follower needs of the log: the seam at which tests lose and double things.
type logReader interface {
	state(ctx context.Context, at uint64) (logState, error)
	read(ctx context.Context, after, before uint64) ([]Message, error)
}

// audience is told what a follower found. The calls come one at a time, in the order of the log.
type audience interface {
	// deliver hands on consecutive messages: none between them and the last ones was left out.
	deliver(messages []Message)
	// lost says that the log went back: no message after `survived` and up to `at`, both of which may
	// have been delivered, exists any more.
	lost(survived, at uint64)
	// reset says that a gap cannot be filled, or that this is another log: nobody's position is good.
	reset(at Position)
}

// follower turns notifications, which may be lost, doubled or late, into the log's messages, each once and
// in order. It is owned by one goroutine, starts none, and reads no clock.
type follower struct {
	log     logReader
	out     audience
	at      uint64 // the last message delivered
	epoch   string
	started bool
}

// resume catches up with the log: at the start, after every reconnect (when LISTEN is already in force, so
// that nothing falls between), and whenever a notification makes no sense.
func (f *follower) resume(ctx context.Context) error {
	s, err := f.log.state(ctx, f.at)
	if err != nil {
		return err
	}
	switch {
	case !f.started, s.epoch != f.epoch, f.at < s.retired:
		f.started, f.epoch, f.at = true, s.epoch, s.last
		f.out.reset(Position{Offset: f.at, Epoch: f.epoch})
		return nil
	case !s.valid:
		// What comes next has greater numbers than any that was lost.
		f.out.lost(s.survived, f.at)
		f.at = s.survived
	}
	return f.fill(ctx, math.MaxInt64)
}

// notified handles one notification.
func (f *follower) notified(ctx context.Context, n *notification) error {
	if !f.started {
		return nil // resume will read it
	}
	if n.last() <= f.at {
		return nil // read from the log already
	}
	if f.at < n.first && (n.prev != f.at || n.first != n.prev+1) {
		return f.resume(ctx) // something was missed, or the log went back: it knows, and has these messages too
	}
	if n.messages == nil {
		return f.fill(ctx, n.last()+1)
	}
	m := n.messages
	for len(m) > 0 && m[0].Offset <= f.at {
		m = m[1:]
	}
	f.deliver(m)
	return nil
}

// fill reads and delivers the messages from the follower's place up to before.
func (f *follower) fill(ctx context.Context, before uint64) error {
	for {
		m, err := f.log.read(ctx, f.at, before)
		if err != nil {
			return err
		}
		f.deliver(m)
		if len(m) == 0 || f.at+1 >= before {
			return nil
		}
	}
}

func (f *follower) deliver(m []Message) {
	if len(m) == 0 {
		return
	}
	f.at = m[len(m)-1].Offset
	f.out.deliver(m)
}
