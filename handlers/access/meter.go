package access

import (
	"math"
	"time"
)

// meter is a token bucket: it fills by its limit a minute, up to its limit, and may be in debt. Unlike a count
// that begins anew each minute, it lets through no double burst at the turn of the minute, and what was found out
// too late (the tokens of an answer, what other replicas took) is made up for by waiting.
type meter struct {
	limit int64 // a minute; 0: none
	level float64
	at    time.Time // when it was at that level
}

// fill brings the level up to now.
func (m *meter) fill(now time.Time) {
	if d := now.Sub(m.at); d > 0 {
		m.level = min(float64(m.limit), m.level+float64(m.limit)*d.Minutes())
		m.at = now
	}
}

// set takes over what the database says that is left.
func (m *meter) set(limit *int64, level float64, now time.Time) {
	m.limit, m.level, m.at = 0, level, now
	if limit != nil {
		m.limit = *limit
	}
}

// until returns how long it takes to fill to a level.
func (m *meter) until(level float64) time.Duration {
	if m.limit == 0 || m.level >= level {
		return 0
	}
	return time.Duration(math.Ceil((level - m.level) / float64(m.limit) * float64(time.Minute)))
}

// left is what may be taken at once, as callers are told.
func (m *meter) left() int64 { return max(0, int64(m.level)) }
