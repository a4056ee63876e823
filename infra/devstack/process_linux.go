package devstack

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// tieToParent lets the kernel send death to the child when our thread ends. The
// runtime sets it after the change of user (which would clear it) and checks
// that we have not died in between.
func tieToParent(attr *syscall.SysProcAttr, death syscall.Signal) bool {
	attr.Pdeathsig = death
	return true
}

// processes lists every process that /proc shows. Slim containers have no ps.
func processes() ([]procInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []procInfo
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // it ended since ReadDir
		}
		if info, ok := parseStat(pid, string(stat)); ok {
			list = append(list, info)
		}
	}
	return list, nil
}

// parseStat reads "pid (name) state ppid …"; the name itself may hold spaces
// and parentheses, so the fields are counted from the last one.
func parseStat(pid int, stat string) (procInfo, bool) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return procInfo{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return procInfo{}, false
	}
	return procInfo{pid: pid, parent: parent, state: fields[0][0]}, true
}
