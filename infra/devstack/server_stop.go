package devstack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// stopGrace is what each signal gets when the caller's context has ended already.
const stopGrace = 3 * time.Second

// Stop ends the server in order: PostgreSQL by a fast shutdown, so that its next
// start needs no recovery. When ctx ends first it gets a few seconds more,
// then it is killed and that is reported, so none runs on in any case. Stopping a stopped
// server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	done, err := s.take(ctx)
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.program.name(), err)
	}
	defer done()
	defer s.letGo()
	proc := s.running()
	if proc == nil {
		return nil
	}
	if err := s.shutDown(ctx, proc); err != nil {
		return fmt.Errorf("stop %s: %w", s.program.name(), err)
	}
	return nil
}

func (s *Server) shutDown(ctx context.Context, proc *process) error {
	if err := thaw(proc.pid); err != nil { // a paused one would not hear us
		return errors.Join(err, s.kill(proc))
	}
	for _, step := range s.program.stopping() {
		if err := proc.signal(step.signal); err != nil {
			return errors.Join(err, s.kill(proc))
		}
		if proc.wait(ctx, step.patience) {
			return nil
		}
		// The context has ended: one short wait more, because the data are worth it.
		if ctx.Err() != nil && proc.wait(context.WithoutCancel(ctx), stopGrace) {
			return nil
		}
		s.progress.line("%s does not stop on %s", s.program.name(), step.signal)
	}
	return errors.Join(errors.New("killed, because it did not stop in time"), ctx.Err(), s.kill(proc))
}

// Kill ends the server and all its children with SIGKILL, like a crash, and
// returns when it is reaped. Start recovers from it.
func (s *Server) Kill() error {
	proc := s.running()
	if proc == nil {
		return nil
	}
	if err := s.kill(proc); err != nil {
		return fmt.Errorf("kill %s: %w", s.program.name(), err)
	}
	return nil
}

// kill has its own deadline, since it also cleans up after a context has ended.
func (s *Server) kill(proc *process) error {
	if proc.exited() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	members, err := destroy(ctx, proc.pid)
	if err != nil {
		return err
	}
	if !proc.wait(ctx, killTimeout) {
		return fmt.Errorf("process %d survives SIGKILL: %w", proc.pid, ctx.Err())
	}
	return waitGone(ctx, members)
}

// Pause freezes the server and all its children, so that it keeps its
// connections but answers nothing. It returns once none of them runs.
func (s *Server) Pause() error {
	proc := s.running()
	if proc == nil {
		return fmt.Errorf("pause %s: %w", s.program.name(), ErrNotRunning)
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if _, err := freeze(ctx, proc.pid); err != nil {
		return fmt.Errorf("pause %s: %w", s.program.name(), errors.Join(err, thaw(proc.pid)))
	}
	return nil
}

// Resume lets a paused server go on.
func (s *Server) Resume() error {
	proc := s.running()
	if proc == nil {
		return fmt.Errorf("resume %s: %w", s.program.name(), ErrNotRunning)
	}
	if err := thaw(proc.pid); err != nil {
		return fmt.Errorf("resume %s: %w", s.program.name(), err)
	}
	return nil
}

// signalImmediate makes PostgreSQL end at once, like a crash that cleans up
// after itself: connections are cut, the next start recovers.
const signalImmediate = syscall.SIGQUIT
