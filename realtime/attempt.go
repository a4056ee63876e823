package realtime

import (
	"errors"
	"sync"
	"syscall"
)

// attempt is one system call on a descriptor that never waits for it to become ready. It is lent, with the functions that
// syscall.RawConn wants: made anew they would be three allocations for each frame to each client.
type attempt struct {
	b           []byte
	n           int
	err         error
	read, write func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	t := &attempt{}
	t.read = func(fd uintptr) bool {
		for {
			if t.n, t.err = syscall.Read(int(fd), t.b); !errors.Is(t.err, syscall.EINTR) {
				return true
			}
		}
	}
	t.write = func(fd uintptr) bool {
		t.n, t.err = syscall.Write(int(fd), t.b)
		return true
	}
	return t
}}

// over gives it back.
func (t *attempt) over() {
	t.b, t.n, t.err = nil, 0, nil
	attempts.Put(t)
}
