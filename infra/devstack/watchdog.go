package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// watchdog starts a shell that sends death to pid when we are gone: it reads
// from a pipe whose only other end is ours, so it wakes up however we die. This
// is the fallback where there is no parent-death signal (macOS). The caller
// calls release as soon as pid is reaped, so a number that is given to another
// process is not signalled; between the two there is a gap of microseconds.
func watchdog(pid int, death syscall.Signal) (release func(), err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watchdog pipe: %w", err)
	}
	defer read.Close()
	script := `read -r _; kill -"$1" "$2"`
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, "watchdog", strconv.Itoa(int(death)), strconv.Itoa(pid))
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must not end it
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill() // before the pipe closes, else it would fire
		_ = cmd.Wait()
		write.Close()
	}, nil
}
