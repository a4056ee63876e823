package realtime

import (
	"context"
	"errors"
	"sync"
	"time"
)

// wakeTimeout bounds how long a connection waits for a replica that starts or wakes. After it the connection is served like any
// other while the database is away.
const wakeTimeout = 5 * time.Second

// errIdle ends the listener's session: nobody has used this replica for long enough.
var errIdle = errors.New("idle")

// rest lets a replica that nobody uses leave the database alone, so that a serverless one can sleep, until the next
// connection or request. It is safe for concurrent use; nil never rests.
type rest struct {
	after time.Duration // of not being used; 0: it never rests
	busy  func() bool   // whether there is a use that use was not told of

	mu    sync.Mutex
	using int           // guarded by mu, like all below
	used  time.Time     // the last time that it was known to be used
	woken chan struct{} // closed by the one who comes; nil unless it rests and nobody came
	awake chan struct{} // closed when the listener follows, or cannot; nil unless it starts, rests or wakes
}

func newRest(after time.Duration, busy func() bool) *rest {
	return &rest{after: after, busy: busy, used: time.Now(), awake: make(chan struct{})}
}

// use keeps the replica from resting until done is called, and wakes it.
func (r *rest) use() (done func()) {
	r.enter(1)
	return func() { r.enter(-1) }
}

// enter counts uses in, or out.
func (r *rest) enter(n int) {
	if r == nil || r.after == 0 {
		return // each request would wait for the lock
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.using += n
	r.stir()
}

// touch is a use that is over already.
func (r *rest) touch() { r.enter(0) }

// stir notes a use. The caller holds mu.
func (r *rest) stir() {
	r.used = time.Now()
	if r.woken != nil {
		close(r.woken)
		r.woken = nil
	}
}

// begin begins to rest if it is time, and returns what is closed when somebody comes; else nil.
func (r *rest) begin() (woken <-chan struct{}) {
	if r.after == 0 {
		return nil
	}
	busy := r.busy()
	r.mu.Lock()
	defer r.mu.Unlock()
	if busy || r.using > 0 {
		r.used = time.Now()
	}
	if time.Since(r.used) < r.after {
		return nil
	}
	r.woken, r.awake = make(chan struct{}), make(chan struct{})
	return r.woken
}

// end lets go on who waits for the replica to start or wake.
func (r *rest) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.awake != nil {
		close(r.awake)
		r.awake = nil
	}
}

// resting says whether there is nobody, and no connection to the database.
func (r *rest) resting() bool {
	if r.after == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.woken != nil
}

// wait waits, while the replica starts or wakes, until what comes next reaches it. A client that came earlier would be
// refused at the start, and come back later than needed; and after a rest be given all that happened meanwhile.
func (r *rest) wait(ctx context.Context) {
	if r == nil {
		return
	}
	r.mu.Lock()
	awake := r.awake
	r.mu.Unlock()
	if awake == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	select {
	case <-awake:
	case <-ctx.Done():
	}
}

// Use keeps this replica from resting until done is called. If it rests, it wakes, and Use returns when it knows what it
// did not hear meanwhile: whoever needs the database, but for a connection, and may use it, says so. See
// Config.IdleRelease.
func (n *Node) Use(ctx context.Context) (done func()) {
	resting := n.rest.resting()
	done = n.rest.use()
	if resting {
		n.rest.wait(ctx)
	}
	return done
}

// Resting says whether this replica leaves the database alone because nobody uses it.
func (n *Node) Resting() bool { return n.rest.resting() }

// LetGo gives up the connections to the database that somebody needed to be refused, if this replica rests.
func (n *Node) LetGo() {
	if n.rest.resting() {
		n.strands[0].letGo()
	}
}
