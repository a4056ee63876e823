package llm

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// warnEvery bounds how often the log is told of the same.
const warnEvery = 10 * time.Second

// electionCounts is how often this replica could not agree with the others on who makes a call, for its warnings.
type electionCounts struct {
	failed, taken       atomic.Int64
	failing             atomic.Bool  // the last one failed
	warned, warnedDeath atomic.Int64 // unix ns
}

func (c *electionCounts) voted(logger *slog.Logger, n int, err error) {
	c.failing.Store(err != nil)
	if err == nil {
		return
	}
	failed := c.failed.Add(int64(n))
	if due(&c.warned) {
		logger.Warn("the database does not decide who asks the model: identical requests may be more than one call", "failed", failed, "error", err)
	}
}

func (c *electionCounts) tookOver(logger *slog.Logger, id string) {
	taken := c.taken.Add(1)
	if due(&c.warnedDeath) {
		logger.Warn("another replica is silent: its call of the model is made anew here", "id", id, "taken_over", taken)
	}
}

// due says whether the last warning is old enough, and counts the next one.
func due(last *atomic.Int64) bool {
	now, before := time.Now().UnixNano(), last.Load()
	return now-before > int64(warnEvery) && last.CompareAndSwap(before, now)
}
