package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Bounds that hold whatever the configuration says.
const (
	// MaxValueBytes is the largest value that is kept; a larger one is not cached.
	MaxValueBytes = 8 << 20
	// MaxLife is the longest that a value is kept, its stale time included.
	MaxLife = 30 * 24 * time.Hour
	// MaxTags is how many tags a value may have; one with more is not cached.
	MaxTags = 32

	defaultLocalBytes     = 32 << 20
	defaultMaxConnections = 50
)

// Config says where the cache is and how much it may take.
type Config struct {
	// URL is the Valkey or Redis server; "" keeps everything in this process.
	// It is redis:// or valkey://, rediss:// or valkeys:// (TLS), or unix://. More
	// nodes are named by ?addr=host:port&addr=…, Sentinel's set by ?master_set=name.
	URL string
	// LocalBytes bounds the copies in this process; 0 means 32 MiB.
	LocalBytes int64
	// MaxConnections bounds the connections to one server; 0 means 50.
	MaxConnections int
	// Bus joins the replicas where there is no Valkey; nil means that this one is alone.
	Bus Bus
	// Log gets what an operator must know; required.
	Log *slog.Logger

	patience time.Duration // the tests' seam; 0 means the constant
}

// Bus carries small notices to every replica, this one too, stored nowhere.
// Whoever hears one calls [Cache.Announced].
type Bus interface {
	Announce(ctx context.Context, topic string, data []byte) error
}

// Topic is what the cache's notices are announced under.
const Topic = "cache"

// Source tells where an entry came from.
type Source uint8

// The sources of an entry.
const (
	Local  Source = iota + 1 // a copy in this process
	Remote                   // Valkey
	Filled                   // made just now
)

// String returns the source's name in lower case.
func (s Source) String() string {
	switch s {
	case Local:
		return "local"
	case Remote:
		return "remote"
	case Filled:
		return "filled"
	}
	return "none"
}

// Entry is a cached value. Value is shared with other readers: it must not be changed.
type Entry struct {
	Value  []byte
	Stored time.Time
	TTL    time.Duration // from Stored on
	Source Source
	Stale  bool // past its TTL, within its stale time
}

// SetOptions say how long a value is kept and how it is purged.
type SetOptions struct {
	// TTL is how long the value is fresh. With 0 or less nothing is stored.
	TTL time.Duration
	// StaleFor is how long it is kept after that, marked Stale.
	StaleFor time.Duration
	// Tags are names under which Purge finds it.
	Tags []string
	// Fill marks a value that was made because the key was missed: whichever
	// replica's is as good, so without Valkey the others keep theirs. A value that
	// replaces an older one must not be marked.
	Fill bool
}

// FetchOptions say how long what Fetch fills is kept, and what may stand in for it.
type FetchOptions struct {
	// TTL is how long the value is fresh. With 0 or less it is not stored, and
	// callers at the same time still share one fill.
	TTL time.Duration
	// StaleWhileRevalidate is how long after its TTL an entry is returned at once,
	// marked Stale, while one background fill makes a new one.
	StaleWhileRevalidate time.Duration
	// StaleIfError is how long after its TTL an entry stands in for a failed fill.
	StaleIfError time.Duration
	// Tags are names under which Purge finds it.
	Tags []string
}

// Errors that a caller may look for.
var (
	// ErrUnavailable means that Valkey could not be reached. Purge has emptied the
	// local copies and does the rest as soon as it can.
	ErrUnavailable = errors.New("the cache is unavailable")
	// ErrURL means that Config.URL is not one of a Valkey server.
	ErrURL = errors.New("not a valid URL of Valkey: look at its parameters and its path")
	// ErrFillPanicked means that the function given to Fetch panicked.
	ErrFillPanicked = errors.New("the fill panicked")
)

func (cfg *Config) validate() error {
	if cfg.Log == nil {
		return errors.New("cache: no logger")
	}
	if cfg.LocalBytes == 0 {
		cfg.LocalBytes = defaultLocalBytes
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = defaultMaxConnections
	}
	if cfg.LocalBytes < 0 || cfg.MaxConnections < 0 {
		return fmt.Errorf("cache: bounds may not be negative: %d bytes, %d connections", cfg.LocalBytes, cfg.MaxConnections)
	}
	return nil
}
