package devstack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// treePoll is how often we look at a process tree while we wait for a change:
// the system has no event for "stopped" or "gone" of a process that is not our child.
const treePoll = 2 * time.Millisecond

// procInfo is what the process table says of one process.
type procInfo struct {
	pid, parent int
	state       byte // R, S, D, T (stopped), Z (ended, not reaped), …
}

// dead tells whether the process has ended and only waits to be reaped.
func (i procInfo) dead() bool { return i.state == 'Z' || i.state == 'X' }

// stopped tells whether the process can no longer run by itself.
func (i procInfo) stopped() bool { return i.state == 'T' || i.state == 't' || i.dead() }

// tree returns root and all its descendants, parents before children.
func tree(root int) ([]procInfo, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]procInfo)
	var found []procInfo
	for _, info := range all {
		children[info.parent] = append(children[info.parent], info)
		if info.pid == root {
			found = append(found, info)
		}
	}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// freeze stops root and its descendants and returns them once none can run.
// Parents are stopped first; we look again until no new child has appeared.
func freeze(ctx context.Context, root int) ([]procInfo, error) {
	var members []procInfo
	err := poll(ctx, func() (bool, error) {
		var err error
		if members, err = tree(root); err != nil {
			return false, err
		}
		frozen := true
		for _, info := range members {
			if info.stopped() {
				continue
			}
			frozen = false
			if err := sendSignal(info.pid, syscall.SIGSTOP); err != nil {
				return false, err
			}
		}
		return frozen, nil
	})
	return members, err
}

// thaw lets root and its descendants run again, children first: the postmaster
// must not take a backend for hung.
func thaw(root int) error {
	members, err := tree(root)
	if err != nil {
		return err
	}
	for i := len(members) - 1; i >= 0; i-- {
		err = errors.Join(err, sendSignal(members[i].pid, syscall.SIGCONT))
	}
	return err
}

// destroy sends SIGKILL to the whole tree. It freezes it first, so nothing can
// fork meanwhile and no number can be given to a stranger.
func destroy(ctx context.Context, root int) ([]procInfo, error) {
	members, freezeErr := freeze(ctx, root)
	err := sendSignal(root, syscall.SIGKILL)
	for _, info := range members {
		err = errors.Join(err, sendSignal(info.pid, syscall.SIGKILL))
	}
	if err == nil && freezeErr != nil && ctx.Err() == nil {
		err = freezeErr
	}
	return members, err
}

// waitGone returns once none of members runs any more.
func waitGone(ctx context.Context, members []procInfo) error {
	watched := make(map[int]bool, len(members))
	for _, info := range members {
		watched[info.pid] = true
	}
	return poll(ctx, func() (bool, error) {
		all, err := processes()
		if err != nil {
			return false, err
		}
		for _, info := range all {
			if watched[info.pid] && !info.dead() {
				return false, nil
			}
		}
		return true, nil
	})
}

// poll calls check until it is done, fails, or ctx ends.
func poll(ctx context.Context, check func() (bool, error)) error {
	ticker := time.NewTicker(treePoll)
	defer ticker.Stop()
	for {
		done, err := check()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes: %w", ctx.Err())
		case <-ticker.C:
		}
	}
}
