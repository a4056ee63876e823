package memory

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// The marks, in percent of the limit. Between a mark and the one for its end nothing changes.
const (
	shrinkAt  = 70
	shrinkEnd = 65
	shedAt    = 85
	shedEnd   = 80
	softLimit = 80 // where the collector begins to work harder
)

// How often things are done.
const (
	lookEvery = 5 * time.Second        // while nobody checks
	checkAge  = 100 * time.Millisecond // a look that is younger answers Check
	freeEvery = 10 * time.Second       // freeing walks the whole heap
)

// What those that registered with OnPressure may keep of their memory.
const (
	shareCalm   = 1.0
	shareShrunk = 0.5
	shareShed   = 0.1
)

// The share of the limit that requests may hold at once: an eighth, for each is in memory several times on its way, and
// while memory is short a 32nd, so that small ones still get through.
const (
	reservable     = 8
	reservableShed = 32
)

// Level is how short memory is.
type Level int32

// The levels.
const (
	Calm   Level = iota
	Shrunk       // caches are small
	Shed         // and new work is refused
)

func (l Level) String() string { return [...]string{"calm", "shrunk", "shedding"}[l] }

// Config says what a Governor governs.
type Config struct {
	Logger *slog.Logger
	// Limit and Used replace the kernel's answers in tests; nil for those.
	Limit, Used func() (uint64, error)
}

// Governor watches over the process's memory. It is safe for concurrent use.
type Governor struct {
	logger *slog.Logger
	source source

	level    atomic.Int32
	used     atomic.Uint64 // at the last look
	looked   atomic.Int64  // when that was, in unix nanoseconds
	poke     chan struct{} // capacity 1: Run looks at once
	reserved atomic.Int64

	refused, freed atomic.Uint64

	mu      sync.Mutex // one that changes the level at a time
	shrinks []func(share float64)
	lastGC  time.Time
}

// New returns a governor, and gives the collector its soft limit; Run starts it. Where no limit is set on the
// process the machine's memory is the limit.
func New(cfg Config) (*Governor, error) {
	if cfg.Logger == nil {
		return nil, errors.New("memory: Logger is required")
	}
	g := &Governor{logger: cfg.Logger, source: newSource(cfg), poke: make(chan struct{}, 1)}
	if cfg.Limit == nil {
		if err := setSoftLimit(cfg.Logger); err != nil {
			cfg.Logger.Warn("the collector's memory limit could not be set", "error", err)
		}
	}
	g.look()
	return g, nil
}

// OnPressure registers what shrinks to a share of its usual size when memory is short, and grows back later.
// It is called before Run; shrink is called by one goroutine at a time and must not call the governor.
func (g *Governor) OnPressure(shrink func(share float64)) { g.shrinks = append(g.shrinks, shrink) }

// Run looks every few seconds, and whenever Check finds memory short, until ctx ends.
func (g *Governor) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		g.govern()
		select {
		case <-ticker.C:
		case <-g.poke:
		case <-ctx.Done():
			return nil
		}
	}
}

// Check looks, unless somebody just did, and returns the level. It is cheap: for after each chunk of an
// export or an import.
func (g *Governor) Check() Level {
	now := time.Now().UnixNano()
	if last := g.looked.Load(); now-last > int64(checkAge) && g.looked.CompareAndSwap(last, now) {
		percent := g.look()
		if percent >= shedAt {
			g.raise(Shed)
		}
		if percent >= shrinkAt {
			select {
			case g.poke <- struct{}{}:
			default:
			}
		}
	}
	return Level(g.level.Load())
}

// Shedding says whether new connections and exports are to be refused.
func (g *Governor) Shedding() bool {
	if g.Check() != Shed {
		return false
	}
	g.refused.Add(1)
	return true
}

// Reserve asks for memory that a request is about to hold, in bytes. If it returns false there is none, and
// the request is to be refused; otherwise it is given back by Release.
func (g *Governor) Reserve(n int64) bool {
	share := uint64(reservable)
	if g.Check() == Shed {
		share = reservableShed
	}
	if g.reserved.Add(n) <= int64(g.source.limitNow()/share) {
		return true
	}
	g.reserved.Add(-n)
	g.refused.Add(1)
	return false
}

// Release gives back what Reserve gave.
func (g *Governor) Release(n int64) { g.reserved.Add(-n) }

// look measures, and returns the percentage in use.
func (g *Governor) look() float64 {
	used, err := g.source.used()
	if err != nil {
		g.logger.Debug("the memory in use could not be read", "error", err)
		return 0
	}
	g.used.Store(used)
	g.looked.Store(time.Now().UnixNano())
	return percentOf(used, g.source.limitNow())
}

func percentOf(used, limit uint64) float64 {
	if limit == 0 {
		return 0
	}
	return 100 * float64(used) / float64(limit)
}

// govern looks, frees garbage if memory is short, and sets the level by what is left.
func (g *Governor) govern() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.source.refresh()
	percent := g.look()
	fresh := false
	if percent >= shrinkAt && time.Since(g.lastGC) >= freeEvery {
		debug.FreeOSMemory()
		g.freed.Add(1)
		g.lastGC = time.Now()
		percent, fresh = g.look(), true
	}
	g.set(next(Level(g.level.Load()), percent, fresh))
}

// next is the level after a look. Between the first mark and the collector's limit much may be garbage: only
// a look at a heap that was just freed raises the level there.
func next(now Level, percent float64, fresh bool) Level {
	switch {
	case percent >= shedAt:
		return Shed
	case now == Shed && percent >= shedEnd:
		return Shed
	case percent >= shrinkAt && fresh, now >= Shrunk && percent >= shrinkEnd:
		return Shrunk
	}
	return Calm
}

// raise sets a level that a check found to be needed at once.
func (g *Governor) raise(to Level) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if to > Level(g.level.Load()) {
		g.set(to)
	}
}

// set changes the level. The caller holds mu.
func (g *Governor) set(to Level) {
	from := Level(g.level.Swap(int32(to)))
	if from == to {
		return
	}
	share := map[Level]float64{Calm: shareCalm, Shrunk: shareShrunk, Shed: shareShed}[to]
	for _, shrink := range g.shrinks {
		shrink(share)
	}
	g.logger.Warn("memory", "from", from.String(), "to", to.String(), "used_bytes", g.used.Load(), "limit_bytes", g.source.limitNow())
}
