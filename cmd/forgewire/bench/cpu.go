package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// watched names processes whose CPU time is measured. Processes come and go, so each name has a function.
type watched map[string]func() []int

// self is the process that generates the load.
func self() []int { return []int{os.Getpid()} }

// serverAndChildren returns a function for PostgreSQL's processes, given the first one's.
func serverAndChildren(pid int) func() []int {
	return func() []int {
		pids := []int{pid}
		files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is constant
		for _, f := range files {
			if fields := readStat(f); len(fields) > statParent && fields[statParent] == strconv.Itoa(pid) {
				child, _ := strconv.Atoi(filepath.Base(filepath.Dir(f))) // the pattern says that it is a number
				pids = append(pids, child)
			}
		}
		return pids
	}
}

// Fields of /proc/PID/stat after the name, and the length of a tick, which is the same wherever Go runs.
const (
	statParent = 1
	statUser   = 11 // then system, and both of children that have ended
	statTick   = 10 * time.Millisecond
)

// readStat returns what follows the name, which may hold spaces and parentheses itself.
func readStat(file string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

var errNoCPUTime = errors.New("this system does not tell how much CPU time a process took")

// cpuTime is what processes, and their children that have ended, took so far.
func cpuTime(pids []int) (total time.Duration, err error) {
	for _, pid := range pids {
		fields := readStat(fmt.Sprintf("/proc/%d/stat", pid))
		if len(fields) < statUser+4 {
			return 0, errNoCPUTime
		}
		for _, f := range fields[statUser : statUser+4] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, errNoCPUTime
			}
			total += time.Duration(ticks) * statTick
		}
	}
	return total, nil
}

// exactCPUTimes is exactCPUTime of each group. The processes have to be the same all the time.
func exactCPUTimes(groups [][]int) ([]time.Duration, error) {
	times := make([]time.Duration, len(groups))
	for i, pids := range groups {
		for _, pid := range pids {
			t, err := exactCPUTime(pid)
			if err != nil {
				return nil, err
			}
			times[i] += t
		}
	}
	return times, nil
}

// took is what one's processes took so far. One may end while they are looked at, and then counts as its parent's.
func (g watched) took(name string) (used time.Duration, err error) {
	for range 10 {
		if used, err = cpuTime(g[name]()); err == nil {
			break
		}
	}
	return used, err
}

// total is what all took so far.
func (g watched) total() (total time.Duration, err error) {
	for name := range g {
		used, err := g.took(name)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

// each is what everybody took so far, in seconds. It leaves out what the system does not tell.
func (g watched) each() map[string]float64 {
	used := map[string]float64{}
	for name := range g {
		if t, err := g.took(name); err == nil {
			used[name] = t.Seconds()
		}
	}
	return used
}

// perEach is what everybody took between two looks for each of n things, in microseconds.
func perEach(before, after map[string]float64, n int) map[string]float64 {
	out := map[string]float64{}
	for name, seconds := range after {
		out[name] = (seconds - before[name]) * 1e6 / float64(n)
	}
	return out
}

// during measures the CPU seconds of a window. It leaves out what the system does not tell.
func (g watched) during(ctx context.Context, w window) map[string]float64 {
	if !waitUntil(ctx, w.from) {
		return nil
	}
	used := map[string]float64{}
	for name := range g {
		if before, err := g.took(name); err == nil {
			used[name] = -before.Seconds()
		}
	}
	if !waitUntil(ctx, w.to) {
		return nil
	}
	for name := range used {
		after, err := g.took(name)
		if err != nil {
			delete(used, name)
			continue
		}
		used[name] += after.Seconds()
	}
	return used
}

// waitUntil returns false if ctx ended first.
func waitUntil(ctx context.Context, at int64) bool {
	timer := time.NewTimer(time.Until(time.Unix(0, at)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
