package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 20 * time.Second
	readyPoll    = 20 * time.Millisecond
	stopTimeout  = 15 * time.Second
	portTries    = 3 // somebody may take a port between our look at it and the replica's
)

// replica is one `forgewire serve`, a process of its own that does not outlive us; or another server, whose group may
// have more processes.
type replica struct {
	url *url.URL
	pid int

	log   tail
	ended chan struct{} // closed when the process was reaped
	err   error         // how it ended; read only after ended
}

// startReplica starts binary's serve on a free port and returns when it is ready. environ is laid under
// what it sets itself.
func startReplica(ctx context.Context, binary, database, apiKey string, environ []string) (*replica, error) {
	return startServer(ctx, binary, []string{"serve"}, append(environ[:len(environ):len(environ)],
		"DATABASE_URL="+database,
		"FORGEWIRE_API_KEY="+apiKey,
		"FORGEWIRE_TOKEN_SECRET=none",
		"FORGEWIRE_ALLOW_ANONYMOUS=true",
		"FORGEWIRE_LOG_LEVEL=warn",
	))
}

// startServer starts a program that listens on PORT, and returns when it is ready.
func startServer(ctx context.Context, binary string, args, environ []string) (*replica, error) {
	for try := 1; ; try++ {
		r, err := launch(ctx, binary, args, environ)
		if err != nil {
			return nil, err
		}
		if err = r.waitUntilReady(ctx); err == nil {
			return r, nil
		}
		_ = r.stop() // err says more
		if try == portTries || !strings.Contains(strings.ToLower(r.log.String()), "address already in use") {
			return nil, fmt.Errorf("start a replica: %w: %s", err, r.log.String())
		}
	}
}

func launch(ctx context.Context, binary string, args, environ []string) (*replica, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	r := &replica{
		url:   &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))},
		ended: make(chan struct{}),
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), binary, args...) // stop ends it, in order
	cmd.Env = append(environ[:len(environ):len(environ)], "PORT="+strconv.Itoa(port))
	cmd.Stderr = &r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us alone
	tieToParent(cmd.SysProcAttr)
	started := make(chan error)
	go r.own(cmd, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start a replica: %w", err)
	}
	return r, nil
}

// own starts the process and waits for it on one and the same thread: Linux ends a tied child with the
// thread that started it.
func (r *replica) own(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	if err == nil {
		r.pid = cmd.Process.Pid
	}
	started <- err
	if err == nil {
		r.err = cmd.Wait() // for all who can write to the log, so for the whole group
		close(r.ended)
	}
}

func (r *replica) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		if ready(ctx, r.url.JoinPath("/readyz").String()) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-r.ended:
			return fmt.Errorf("it ended: %w", r.err)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w", ctx.Err())
		}
	}
}

var prober = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := prober.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends the process, and returns what it logged if it had ended by itself.
func (r *replica) stop() error {
	select {
	case <-r.ended:
		return fmt.Errorf("a replica ended by itself (%w): %s", errors.Join(r.err, errEnded), r.log.String())
	default:
	}
	_ = syscall.Kill(-r.pid, syscall.SIGTERM) // the group; it may have just ended
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
		_ = syscall.Kill(-r.pid, syscall.SIGKILL)
		<-r.ended
	}
	return nil
}

var errEnded = errors.New("nobody stopped it")

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if extra := len(t.text) - tailSize; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// stopAll ends replicas.
func stopAll(replicas []*replica) error {
	var errs []error
	for _, r := range replicas {
		errs = append(errs, r.stop())
	}
	return errors.Join(errs...)
}

// goVariables picks from environ what tunes the Go runtime: the replicas get that and nothing else.
func goVariables(environ []string) (picked []string) {
	for _, e := range environ {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "GOTRACEBACK":
			picked = append(picked, e)
		}
	}
	return picked
}
