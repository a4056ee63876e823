package devstack

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one child that does not outlive us. Its owner is the goroutine
// started by launch, which ends when the child has been reaped.
type process struct {
	pid int

	done chan struct{} // closed once the child is reaped
	err  error         // how the child ended; read only after done
}

// launch starts cmd in a process group of its own, so that Ctrl-C in a terminal
// reaches us alone and we stop the servers in order. Should we die first, the
// system sends the child the signal death.
func launch(cmd *exec.Cmd, death syscall.Signal) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go p.own(cmd, death, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// own starts the child and waits for it on one and the same OS thread: Linux
// sends the parent-death signal when the *thread* that forked ends, and the
// runtime may end a thread that no goroutine is locked to.
func (p *process) own(cmd *exec.Cmd, death syscall.Signal, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tied := tieToParent(cmd.SysProcAttr, death)
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	release := func() {}
	if !tied {
		var err error
		if release, err = watchdog(p.pid, death); err != nil {
			_ = cmd.Process.Kill() // without a watchdog it could become an orphan
			_ = cmd.Wait()
			started <- err
			return
		}
	}
	started <- nil
	p.err = cmd.Wait()
	release()
	close(p.done)
}

// exited tells whether the child has been reaped.
func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig to the child; a child that has just ended is no error.
func (p *process) signal(sig syscall.Signal) error {
	if p.exited() {
		return nil
	}
	return sendSignal(p.pid, sig)
}

// sendSignal is kill(2) that takes a process which is gone for success.
func sendSignal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", sig, pid, err)
	}
	return nil
}

// wait returns true once the child is reaped, false when ctx or patience ends first.
func (p *process) wait(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return p.exited()
}
