//go:build !linux

package bench

import (
	"syscall"
	"time"
)

// tieToParent does nothing: a replica whose generator was killed has to be ended by hand.
func tieToParent(*syscall.SysProcAttr) {}

func exactCPUTime(int) (time.Duration, error) { return 0, errNoCPUTime }
