package llm

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pump writes a tape to its channel. While nobody on another replica reads along, it writes the first event at once, so
// that the answer can be resumed, then what has come since every now and then, and the end at once. From when somebody
// reads along it keeps nothing back: it writes in batches of what came while the last one was on its way. It delays
// nobody: readers on this replica have the tape.
type pump struct {
	log     Log
	tape    *tape
	lease   *lease
	attempt int
	limit   int                  // bytes of a message
	base    string               // whose the answer is
	spacing func() time.Duration // between two batches that nobody waits for
	headOut bool
	live    bool // readers were told that nothing is kept back
	take    int
	next    int
}

// Times of a pump whose log does not take what it brings.
const (
	pumpRetry  = 200 * time.Millisecond
	pumpWithin = 5 * time.Second // of one append
	pumpTries  = 25
	pumpBytes  = 4 << 20 // of one append: a log takes only so much at once, and an answer written as JSON may be larger than it is
)

// Spacing of what nobody waits for: of few flights, for each of many, and at most.
const (
	leastSpacing  = 250 * time.Millisecond
	flightSpacing = 2500 * time.Microsecond
	mostSpacing   = 2 * time.Second
)

func (s *Service) spacing() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(leastSpacing, time.Duration(len(s.byID))*flightSpacing), mostSpacing)
}

var (
	errLog = errors.New("the log does not take the answer")
	// errUntold says that an answer came whole, and nobody reads along: it may never have to be written.
	errUntold = errors.New("nobody has been told the answer")
)

// run returns when the end is written, or the log has refused it for too long. quiet leaves the end out.
func (p *pump) run(ctx context.Context, quiet func() bool) error {
	for {
		v, err := p.tape.wait(ctx, p.next, func(v view) bool { return len(v.events) > 0 || v.take != p.take })
		if err != nil {
			return p.rest(ctx, err)
		}
		if v.take != p.take {
			p.take, p.next, p.headOut = v.take, 0, false
			continue
		}
		if v.end != nil && p.next+len(v.events) == 0 && p.attempt == 1 && !p.lease.isFollowed() && !quiet() {
			return errUntold
		}
		if err := p.write(ctx, v, quiet()); err != nil || v.end != nil {
			return err
		}
		p.pause(ctx)
	}
}

// rest writes what has come when the replica stops: who goes on elsewhere has it all.
func (p *pump) rest(ctx context.Context, cause error) error {
	v := p.tape.now(p.next)
	if v.take != p.take || len(v.events) == 0 {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatWithin)
	defer cancel()
	return errors.Join(cause, p.write(ctx, v, true))
}

// write appends all that a view shows.
func (p *pump) write(ctx context.Context, v view, quiet bool) error {
	p.live = p.lease.isFollowed()
	messages, taken := p.encode(v, quiet)
	if len(messages) > 0 {
		if err := p.append(ctx, v.id, messages); err != nil {
			return err
		}
	}
	p.alias(ctx, v)
	p.next += taken
	return nil
}

// pause waits until the next batch is due.
func (p *pump) pause(ctx context.Context) {
	if p.lease.isFollowed() {
		return
	}
	t := time.NewTimer(p.spacing())
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.lease.followed:
	case <-p.tape.over:
	case <-ctx.Done():
	}
}

// alias lets the answer be found by the id that the upstream gave it, too. Without it there is still ours.
func (p *pump) alias(ctx context.Context, v view) {
	if p.next > 0 || len(v.events) == 0 || p.base == "" {
		return
	}
	n, err := parseAnswer(v.events[0].data)
	if err != nil {
		return
	}
	id := n.get("id").text()
	if r := n.get("response"); r.has() {
		id = r.get("id").text()
	}
	if !isTag(id) {
		return
	}
	c, cancel := context.WithTimeout(ctx, pumpWithin)
	defer cancel()
	_ = p.log.Append(c, aliasChannel(p.base, id), append(append([]byte(`{"id":`), quote(v.id)...), '}'))
}

// append stores messages, a few MiB at once.
func (p *pump) append(ctx context.Context, id string, messages [][]byte) error {
	size, from := 0, 0
	for i, m := range messages {
		if size += len(m); size > pumpBytes && i > from {
			if err := p.appendPart(ctx, id, messages[from:i]); err != nil {
				return err
			}
			size, from = len(m), i
		}
	}
	return p.appendPart(ctx, id, messages[from:])
}

// appendPart tries until it is told that the messages are stored. Readers know twice the same when they see it.
func (p *pump) appendPart(ctx context.Context, id string, messages [][]byte) error {
	for range pumpTries {
		c, cancel := context.WithTimeout(ctx, pumpWithin)
		err := p.log.Append(c, channelOf(id), messages...)
		cancel()
		if err == nil {
			return nil
		}
		if !pause(ctx, pumpRetry) {
			return fmt.Errorf("write an answer to its channel: %w", err)
		}
	}
	return errLog
}
