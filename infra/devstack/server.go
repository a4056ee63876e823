package devstack

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds a start, a long recovery after a crash included.
	readyTimeout = 2 * time.Minute
	// readyPoll is how often we knock: a server does not tell when it is ready.
	readyPoll = 15 * time.Millisecond
	// knockTimeout bounds one attempt to connect, which makes the database the
	// first time: that has to fit in on a slow disk.
	knockTimeout = 15 * time.Second
	// releaseTimeout is how long a folder or a port may still be taken by a server
	// that is going down, because its process was killed a moment ago.
	releaseTimeout = 8 * time.Second
	releasePoll    = 50 * time.Millisecond
	// killTimeout bounds what the kernel needs to end or stop a process tree.
	killTimeout = 10 * time.Second
)

// program is what differs between PostgreSQL and Valkey.
type program interface {
	// name is the server's name in messages.
	name() string
	// args is the command line for a data folder and a port.
	args(dir string, port int) []string
	// url is what clients connect to.
	url(port int) string
	// knock returns nil if the server with this pid answers on port.
	knock(ctx context.Context, dir string, port, pid int) error
	// cause reads the reason of a failed start from the log: ErrInUse,
	// errPortTaken, or nil if it is another one.
	cause(log string) error
	// stopping lists the signals that end the server, gentlest first.
	stopping() []stopStep
	// death is the signal that the server gets when we die.
	death() syscall.Signal
}

// stopStep is one way to end a server and how long to wait for it.
type stopStep struct {
	signal   syscall.Signal
	patience time.Duration
}

// Server is one server process with its data folder and its port. All methods
// may be called at the same time; Start and Stop take turns.
type Server struct {
	// Fixed after construction.
	program  program
	binary   string
	dir      string
	account  *account
	progress *progress

	turn chan struct{} // holds one token while Start or Stop is at work

	mu   sync.Mutex  // guards the fields below; never held while waiting
	port int         // 0 before the first start
	env  []string    // NAME=value, laid over the environment
	proc *process    // nil before the first start
	lock *folderLock // of the folder, from Start to Stop
}

func newServer(p program, binary, dir string, a *account, out *progress) *Server {
	return &Server{program: p, binary: binary, dir: dir, account: a, progress: out, turn: make(chan struct{}, 1)}
}

// URL returns the address that clients connect to. It stays the same over restarts.
func (s *Server) URL() string { return s.program.url(s.Port()) }

// Dir returns the data folder.
func (s *Server) Dir() string { return s.dir }

// Port returns the TCP port on 127.0.0.1.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// Setenv gives the server NAME=value from its next start on: for tests that load a
// library of faults into it.
func (s *Server) Setenv(entries ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env = append(s.env, entries...)
}

// PID returns the process number of the server (of PostgreSQL's postmaster), 0
// when it does not run.
func (s *Server) PID() int {
	if proc := s.running(); proc != nil {
		return proc.pid
	}
	return 0
}

// running returns the process if there is a live one.
func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.exited() {
		return nil
	}
	return s.proc
}

// take waits for the turn of a Start or Stop; the result gives it back.
func (s *Server) take(ctx context.Context) (func(), error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	default:
	}
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Start starts the server on its port and its data, as after Stop, Kill or a
// crash, and returns once it answers. ctx bounds the start, not the life.
func (s *Server) Start(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", s.program.name(), err)
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	done, err := s.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	if s.running() != nil {
		return ErrRunning
	}
	if err := s.hold(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.launchUntilReady(ctx); err != nil {
		s.letGo()
		return err
	}
	return nil
}

// hold locks the data folder, unless it is locked since an earlier start.
func (s *Server) hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		return nil
	}
	lock, err := lockFolder(s.dir)
	if err != nil {
		return err
	}
	s.lock = lock
	return nil
}

// letGo unlocks the data folder.
func (s *Server) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		_ = s.lock.release()
		s.lock = nil
	}
}

// launchUntilReady launches the server. It tries again while what stands in the
// way is about to go: a predecessor that is shutting down, or, at the first
// start, a port that somebody took between our look at it and the server's.
func (s *Server) launchUntilReady(ctx context.Context) error {
	fixed := s.Port() != 0
	deadline := time.Now().Add(releaseTimeout)
	for {
		if !fixed {
			if err := s.choosePort(ctx); err != nil {
				return err
			}
		}
		err := s.launchOnce(ctx)
		waitable := errors.Is(err, ErrInUse) || errors.Is(err, errPortTaken)
		if !waitable || time.Now().After(deadline) {
			return err
		}
		timer := time.NewTimer(releasePoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (s *Server) choosePort(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = port
	return nil
}

// launchOnce starts the process and waits until it answers. It leaves no
// process behind when it fails.
func (s *Server) launchOnce(ctx context.Context) error {
	output, log, err := openLog(filepath.Join(s.dir, logName), s.account)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.binary, s.program.args(s.dir, s.Port())...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = output, output
	s.account.apply(cmd)
	s.mu.Lock()
	cmd.Env = append(cmd.Env, s.env...)
	s.mu.Unlock()
	proc, err := launch(cmd, s.program.death())
	output.Close()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.proc = proc
	s.mu.Unlock()
	if err := s.awaitReady(ctx, proc); err != nil {
		return errors.Join(s.explain(err, log), s.kill(proc))
	}
	return nil
}

// explain adds to err what the server's log says.
func (s *Server) explain(err error, log serverLog) error {
	tail := log.tail()
	if cause := s.program.cause(tail); cause != nil {
		err = fmt.Errorf("%s: %w", s.dir, cause)
	}
	if tail == "" {
		return fmt.Errorf("%w (its log %s is empty)", err, log.path)
	}
	return fmt.Errorf("%w; its log %s ends with:\n%s", err, log.path, tail)
}

// awaitReady knocks until proc answers, ends, or ctx does.
func (s *Server) awaitReady(ctx context.Context, proc *process) error {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	began, told := time.Now(), false
	port := s.Port()
	var last error
	for {
		select {
		case <-proc.done:
			return fmt.Errorf("it ended at once: %w", endOf(proc))
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", errors.Join(ctx.Err(), last))
		case <-ticker.C:
		}
		knock, cancel := context.WithTimeout(ctx, knockTimeout)
		last = s.program.knock(knock, s.dir, port, proc.pid)
		cancel()
		if last == nil {
			return nil
		}
		if !told && time.Since(began) > slowAfter {
			s.progress.line("waiting for %s: it recovers its data, or the machine is slow", s.program.name())
			told = true
		}
	}
}

var errExitZero = errors.New("exit status 0")

// endOf tells how a reaped process ended.
func endOf(proc *process) error {
	if proc.err == nil {
		return errExitZero
	}
	return proc.err
}
