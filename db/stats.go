package db

import "github.com/jackc/pgx/v5/pgxpool"

// Stats is a pool at one moment, and what happened to it since it was made. Add sums several.
type Stats struct {
	Base    int64 `json:"base"`    // connections that are kept
	Ceiling int64 `json:"ceiling"` // connections at most
	Size    int64 `json:"size"`    // connections now
	InUse   int64 `json:"in_use"`
	Idle    int64 `json:"idle"`
	Waiting int64 `json:"waiting"` // callers that wait for one

	Acquired    uint64  `json:"acquired"`
	Waited      uint64  `json:"waited"` // acquires that found none free
	WaitSeconds float64 `json:"wait_seconds"`
	TimedOut    uint64  `json:"timed_out"` // waited too long
	Refused     uint64  `json:"refused"`   // were one too many to wait
	Opened      uint64  `json:"opened"`
	Ended       uint64  `json:"ended"` // connections that were closed or broke
}

// PoolStats describes a pool that NewPool made.
func PoolStats(pool *pgxpool.Pool) Stats {
	var g *gate
	switch t := pool.Config().ConnConfig.Tracer.(type) {
	case *gate:
		g = t
	case withGate:
		g = t.gate
	default:
		panic("db: PoolStats of a pool that NewPool did not make")
	}
	s := pool.Stat()
	return Stats{
		Base: int64(g.base), Ceiling: int64(s.MaxConns()), Size: int64(s.TotalConns()),
		InUse: int64(s.AcquiredConns()), Idle: int64(s.IdleConns()), Waiting: max(0, g.acquiring.Load()),
		Acquired: uint64(s.AcquireCount()), Waited: uint64(s.EmptyAcquireCount()), WaitSeconds: s.EmptyAcquireWaitTime().Seconds(),
		TimedOut: g.timedOut.Load(), Refused: g.refused.Load(), Opened: g.opened.Load(), Ended: g.ended.Load(),
	}
}

// Add adds another pool's figures.
func (s *Stats) Add(o Stats) {
	s.Base += o.Base
	s.Ceiling += o.Ceiling
	s.Size += o.Size
	s.InUse += o.InUse
	s.Idle += o.Idle
	s.Waiting += o.Waiting
	s.Acquired += o.Acquired
	s.Waited += o.Waited
	s.WaitSeconds += o.WaitSeconds
	s.TimedOut += o.TimedOut
	s.Refused += o.Refused
	s.Opened += o.Opened
	s.Ended += o.Ended
}
