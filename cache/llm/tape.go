package llm

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A tape holds what is known of an answer that is under way. One goroutine writes; any number of readers read at
// their own pace from any place, so a slow one delays nobody.
type tape struct {
	mu      sync.Mutex
	over    chan struct{} // closed at the end
	ending  func()        // called before anybody hears of the end; nil for nothing. Fixed before the first of them
	changed chan struct{} // closed when anything changes, nil if nobody waits for it; guarded by mu, like all below
	id      string
	remote  bool        // another replica asks the upstream
	lone    bool        // or did: what comes now is this replica's alone, and nobody else goes on with it
	head    *flightHead // nil until the upstream has begun to answer
	// take is greater whenever the answer began anew. Readers that had something of an earlier one cannot go on.
	take int
	// held is how many events of this take are known to be those that all readers of an earlier leader have got; -1 for
	// all. Who has more than these cannot go on: what he has may be something else.
	held   int
	events []event
	object []byte
	size   int
	end    *flightEnd
}

// flightHead is what is known when an answer begins.
type flightHead struct {
	Endpoint endpoint `json:"endpoint"`
	Scope    string   `json:"scope"` // hashed: whose it is
	Model    string   `json:"model"`
	Upstream string   `json:"upstream"`
	There    string   `json:"there,omitempty"` // the model's name there
	Stream   bool     `json:"stream"`          // else it comes whole
	Usage    bool     `json:"usage"`           // the stream brings its usage
}

// flightEnd is how an answer ended.
type flightEnd struct {
	Done bool `json:"done"` // it says itself that it is over: nothing was cut off
	// Complete says that an answer which came whole may be given to others. Of a stream it is not known at once.
	Complete bool `json:"complete,omitempty"`
	// Unfit says that something in it was mended or failed: nobody stores it, who copies it neither.
	Unfit bool `json:"unfit,omitempty"`
	// Fallback says that another upstream than the first was asked: the answer is not kept for long.
	Fallback bool     `json:"fallback,omitempty"`
	Failure  *failure `json:"failure,omitempty"` // nil if there is nothing to add to what came
}

// A failure is what is given in place of an answer, or behind the part of it that came.
type failure struct {
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Message    string `json:"message,omitempty"`
	Body       string `json:"body,omitempty"` // the upstream's own, which goes on as it is
	RetryAfter string `json:"retry_after,omitempty"`
	Temporary  bool   `json:"temporary,omitempty"` // an older answer is better than this one
}

func newTape(id string) *tape { return &tape{id: id, held: -1, over: make(chan struct{})} }

// change runs f and tells the readers.
func (t *tape) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func (t *tape) begin(h flightHead) { t.change(func() { t.head = &h }) }

// elsewhere says that the answer is another replica's, under that id.
func (t *tape) elsewhere(id string) { t.change(func() { t.id, t.remote = id, true }) }

// alone says that this replica asks the upstream for nobody else, whatever it has copied before.
func (t *tape) alone() { t.change(func() { t.lone = t.remote }) }

// hold says that only so many events are what readers of an earlier leader have, too.
func (t *tape) hold(n int) {
	t.change(func() {
		if t.held < 0 || n < t.held {
			t.held = n
		}
	})
}

// add appends events. It returns false if the answer is then too large.
func (t *tape) add(events ...event) bool {
	t.change(func() {
		t.events = append(t.events, events...)
		for i := range events {
			t.size += len(events[i].data)
		}
	})
	return t.size <= maxAnswerBytes // only the writer changes it
}

func (t *tape) setObject(b []byte) { t.change(func() { t.object, t.size = b, len(b) }) }

// whole is begin, setObject and finish: readers wake up once.
func (t *tape) whole(h flightHead, b []byte, e flightEnd) {
	t.change(func() {
		t.head, t.object, t.size = &h, b, len(b)
		t.close(e)
	})
}

// again begins the answer anew, with a take that is nobody else's.
func (t *tape) again(take int) {
	t.change(func() {
		t.take = take
		t.head, t.events, t.object, t.size, t.held = nil, nil, nil, 0, -1
	})
}

func (t *tape) finish(e flightEnd) { t.change(func() { t.close(e) }) }

// close is finish for who holds mu.
func (t *tape) close(e flightEnd) {
	if t.end == nil {
		if t.ending != nil {
			t.ending()
		}
		t.end = &e
		close(t.over)
	}
}

// A view is a tape at one moment, from a reader's place on.
type view struct {
	id     string
	remote bool
	lone   bool
	head   *flightHead
	take   int
	held   int
	events []event // from the place on
	object []byte
	end    *flightEnd
}

// now returns what there is after the first n events of a take.
func (t *tape) now(n int) view {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view(n)
}

// view is now for who holds mu.
func (t *tape) view(n int) view {
	v := view{id: t.id, remote: t.remote, lone: t.lone, head: t.head, take: t.take, held: t.held, object: t.object, end: t.end}
	if n < len(t.events) {
		v.events = t.events[n:len(t.events):len(t.events)]
	}
	return v
}

// failed says whether it has ended with a failure.
func (t *tape) failed() bool {
	v := t.now(0)
	return v.end != nil && v.end.Failure != nil
}

// look is now, and says what is closed when there is more.
func (t *tape) look(n int) (view, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.view(n), t.changed
}

// wait returns as soon as ready says that there is enough.
func (t *tape) wait(ctx context.Context, n int, ready func(view) bool) (view, error) {
	return t.waitWhile(ctx, n, ready, nil)
}

var errQuiet = errors.New("nothing has come for long")

// waitWhile is wait, with errQuiet when something comes from quiet before.
func (t *tape) waitWhile(ctx context.Context, n int, ready func(view) bool, quiet <-chan time.Time) (view, error) {
	if v := t.now(n); v.end != nil || ready(v) {
		return v, nil
	}
	for {
		v, changed := t.look(n)
		if v.end != nil || ready(v) {
			return v, nil
		}
		select {
		case <-changed:
		case <-quiet:
			return v, errQuiet
		case <-ctx.Done():
			return v, context.Cause(ctx)
		}
	}
}

// ended waits for the end.
func (t *tape) ended(ctx context.Context) (view, error) {
	return t.wait(ctx, 0, func(view) bool { return false })
}
