package memory

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// ballast is never touched, so it takes no memory; but the collector counts it, and so runs each time that so much
// was allocated, and not all the time. That is also what a busy replica holds as garbage, beside what it needs.
var ballast = make([]byte, 16<<20)

// setSoftLimit tells the collector where to work harder, unless GOMEMLIMIT or AUTOMEMLIMIT=off say that
// somebody else does. The ballast is counted by the collector and not by the kernel.
func setSoftLimit(logger *slog.Logger) error {
	_, err := memlimit.Set(memlimit.WithLogger(slog.New(slog.DiscardHandler)), memlimit.WithRatio(1), memlimit.WithProvider(func() (uint64, error) {
		limit, err := memlimit.FromCgroup()
		if err != nil {
			return 0, err
		}
		logger.Debug("memory is limited", "limit_bytes", limit)
		return limit/100*softLimit + uint64(len(ballast)), nil
	}))
	if errors.Is(err, memlimit.ErrNoCgroup) || errors.Is(err, memlimit.ErrCgroupsNotSupported) {
		return nil
	}
	return err
}

// source answers how much memory there is and how much is in use.
type source struct {
	used  func() (uint64, error)
	limit func() (uint64, error)
	last  *atomic.Uint64 // the limit, as last read
}

func newSource(cfg Config) source {
	s := source{used: cfg.Used, limit: cfg.Limit, last: new(atomic.Uint64)}
	limited := false
	if s.limit == nil {
		s.limit = memlimit.FromCgroup
		if _, err := memlimit.FromCgroup(); err != nil {
			s.limit = memlimit.FromSystem
		} else {
			limited = true
		}
	}
	if s.used == nil {
		s.used = resident
		if group, ok := findGroup(os.DirFS("/")); ok && limited {
			s.used = group.used
		}
	}
	s.refresh()
	return s
}

// refresh reads the limit again: platforms may change it while the process runs. Where it cannot be read the
// last one stays.
func (s source) refresh() {
	if limit, err := s.limit(); err == nil {
		s.last.Store(limit)
	}
}

func (s source) limitNow() uint64 { return s.last.Load() }

// group is the process's own memory cgroup.
type group struct {
	files              fs.FS
	usage, stat, cache string // two files, and the line of the second one that counts idle file cache
}

// findGroup looks where the kernel keeps the figures of this process: version 2, version 1, and for both the
// place at which a container sees its own group.
func findGroup(root fs.FS) (group, bool) {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return group{}, false
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, usage, cache := "sys/fs/cgroup", "memory.current", "inactive_file"
		switch {
		case parts[1] == "memory":
			mount, usage, cache = "sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_inactive_file"
		case parts[0] != "0" || parts[1] != "":
			continue
		}
		for _, dir := range []string{path.Join(mount, parts[2]), mount} {
			g := group{files: root, usage: path.Join(dir, usage), stat: path.Join(dir, "memory.stat"), cache: cache}
			if _, err = g.used(); err == nil {
				return g, true
			}
		}
	}
	return group{}, false
}

// used is what the kernel counts against the limit, but for file cache that it would drop first.
func (g group) used() (uint64, error) {
	b, err := fs.ReadFile(g.files, g.usage)
	if err != nil {
		return 0, fmt.Errorf("read the memory in use: %w", err)
	}
	usage, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the memory in use: %w", err)
	}
	if b, err = fs.ReadFile(g.files, g.stat); err != nil {
		return 0, fmt.Errorf("read the memory in use: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), " "); name == g.cache {
			cached, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the file cache in use: %w", err)
			}
			return usage - min(cached, usage), nil
		}
	}
	return usage, nil
}

// resident is the memory of this process alone: what the kernel says, or where it does not, the runtime.
func resident() (uint64, error) {
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			pages, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the process's memory: %w", err)
			}
			return pages * uint64(os.Getpagesize()), nil
		}
	}
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64(), nil
}
