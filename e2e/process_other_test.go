//go:build !linux

package e2e

import (
	"os/exec"
	"syscall"
)

// endWithUs keeps a Ctrl-C from reaching the process before the tests' own clean-up.
func endWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
