package devstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// helperVariable tells this test binary to be a helper process.
const helperVariable = "DEVSTACK_TEST_HELPER"

// goneTimeout is how soon orphans have to be gone.
const goneTimeout = 15 * time.Second

// runHelper is the main function of a helper process.
func runHelper(mode string) error {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	switch mode {
	case "stack", "paused":
		return helpStack(ctx, mode == "paused")
	case "watchdog":
		return helpWatchdog(ctx)
	case "cycle":
		return helpCycle(ctx)
	}
	return fmt.Errorf("unknown helper %q", mode)
}

// helpStack starts servers, prints the numbers of all their processes, and waits to be killed.
func helpStack(ctx context.Context, paused bool) error {
	stack, err := Start(ctx, Config{Dir: os.Getenv("DEVSTACK_TEST_DIR")})
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, stack.Postgres.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var pids []string
	for _, server := range []*Server{stack.Postgres, stack.Valkey} {
		if server == nil {
			continue
		}
		members, err := tree(server.PID())
		if err != nil {
			return err
		}
		for _, info := range members {
			pids = append(pids, strconv.Itoa(info.pid))
		}
		if paused {
			if err := server.Pause(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(os.Stdout, strings.Join(pids, " "))
	<-ctx.Done()
	return stack.Stop(context.Background())
}

// helpWatchdog starts a process that only the watchdog ties to us.
func helpWatchdog(ctx context.Context) error {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := watchdog(cmd.Process.Pid, syscall.SIGTERM); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, cmd.Process.Pid)
	<-ctx.Done()
	return cmd.Process.Kill()
}

// helpCycle is the life of a temporary stack: start, crash, start, stop.
func helpCycle(ctx context.Context) error {
	stack, err := Start(ctx, Config{Progress: os.Stderr})
	if err != nil {
		return err
	}
	err = stack.Postgres.Kill()
	if err == nil {
		err = stack.Postgres.Start(ctx)
	}
	if err == nil {
		cache, cacheErr := cacheFolder(unprivileged())
		fmt.Fprintln(os.Stdout, os.Getuid(), cache)
		err = cacheErr
	}
	return errors.Join(err, stack.Stop(ctx))
}

// spawnHelper starts a helper and returns it with the numbers that it prints.
func spawnHelper(t *testing.T, mode, dir string) (*exec.Cmd, []procInfo) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+mode, "DEVSTACK_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatalf("helper %s: %v", mode, err)
	}
	var members []procInfo
	for _, field := range strings.Fields(line) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, procInfo{pid: pid})
	}
	return cmd, members
}

func TestNoOrphans(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"stack", "paused", "watchdog"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			helper, members := spawnHelper(t, mode, dir)
			for _, info := range members {
				if !alive(t, info.pid) {
					t.Fatalf("process %d does not run", info.pid)
				}
			}
			if err := helper.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(testContext(t), goneTimeout)
			defer cancel()
			if err := waitGone(ctx, members); err != nil {
				t.Errorf("orphans: %v", err)
			}
		})
	}
}

// The next start after a crash of our process finds the old server on its way out.
func TestStartRightAfterParentWasKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	helper, _ := spawnHelper(t, "stack", dir)
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	startTest(t, Config{Dir: dir, NoValkey: true})
}

// Linux signals the servers when the thread that forked them ends. Here the
// caller's thread ends on purpose.
func TestServerOutlivesCallersThread(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("threads are looked up in /proc")
	}
	t.Parallel()
	var stack *Stack
	thread := onThreadThatEnds(func() {
		var err error
		if stack, err = Start(testContext(t), Config{NoValkey: true}); err != nil {
			t.Error(err)
		}
	})
	if stack == nil {
		t.FailNow()
	}
	defer func() {
		if err := stack.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	err := poll(testContext(t), func() (bool, error) {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread))
		return errors.Is(err, os.ErrNotExist), nil
	})
	if err != nil {
		t.Fatalf("the thread does not end: %v", err)
	}
	if got := ask(t, stack.Postgres, "SELECT 'alive'"); got != "alive" {
		t.Error(got)
	}
}

// onThreadThatEnds calls f on a thread that ends right after it, and returns its
// number. The process's first thread never ends, so that one is avoided.
func onThreadThatEnds(f func()) int {
	number := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		thread := threadID()
		if thread == os.Getpid() {
			number <- onThreadThatEnds(f) // we occupy the first one meanwhile
			return
		}
		f()
		number <- thread
	}()
	return <-number
}

// threadID returns the calling thread's number, from a link that exists on Linux alone.
func threadID() int {
	link, err := os.Readlink("/proc/thread-self")
	if err != nil {
		return 0
	}
	id, err := strconv.Atoi(filepath.Base(link))
	if err != nil {
		return 0
	}
	return id
}

// Ctrl-C reaches the foreground group; the servers must not be in ours.
func TestServersHaveGroupsOfTheirOwn(t *testing.T) {
	t.Parallel()
	stack := startTest(t, Config{})
	for _, server := range []*Server{stack.Postgres, stack.Valkey} {
		if server == nil {
			continue
		}
		group, err := syscall.Getpgid(server.PID())
		if err != nil {
			t.Fatal(err)
		}
		if group == syscall.Getpgrp() {
			t.Errorf("%s is in our process group", server.program.name())
		}
	}
}

// copySelf copies the test binary to where every user can run it.
func copySelf(t *testing.T, dir string) string {
	t.Helper()
	source, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	// No fork while the file is open for writing: the child would have it open,
	// too, and the system starts no program that somebody writes ("text file busy").
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	path := filepath.Join(dir, "devstack.test")
	target, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
