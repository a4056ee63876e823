//go:build !linux

package devstack

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"syscall"
)

// tieToParent reports that only Linux has a parent-death signal; launch then
// falls back to a watchdog process.
func tieToParent(*syscall.SysProcAttr, syscall.Signal) bool { return false }

// processes lists every process by means of ps.
func processes() ([]procInfo, error) {
	out, err := exec.CommandContext(context.Background(), "ps", "-axo", "pid=,ppid=,state=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []procInfo
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		var info procInfo
		var state string
		if _, err := fmt.Sscan(scan.Text(), &info.pid, &info.parent, &state); err != nil {
			continue
		}
		info.state = state[0]
		list = append(list, info)
	}
	return list, nil
}
