package cache

import (
	"context"
	"time"
)

const (
	watchEvery = 250 * time.Millisecond
	// overslept is the gap after which we have been frozen: what was invalidated
	// meanwhile may not have reached us, and the connection that would tell may be dead.
	overslept = time.Second
)

// watch drops all copies when the process was frozen: suspended with its machine,
// where the wall clock jumps ahead of the monotonic one, or just not given any CPU.
func (l *local) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	defer l.awake.Store(nil)
	for {
		now := time.Now() // not the tick's own time, which may be old
		if l.asleep(now) {
			l.clear()
		}
		l.awake.Store(&now)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// asleep tells whether we have been frozen until just now, and watch has not yet
// noticed. A clock that was set back counts: copies would live longer by as much.
func (l *local) asleep(now time.Time) bool {
	last := l.awake.Load()
	if last == nil {
		return false
	}
	return now.Sub(*last) > overslept || now.Round(0).Sub(last.Round(0)).Abs() > overslept
}
