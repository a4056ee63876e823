package devstack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	temporaryPrefix = "forgewire-dev-"
	// leftoverAge keeps the sweep away from a folder that another process has
	// just made and not yet locked.
	leftoverAge = time.Minute
)

// MkdirTemp makes a new folder that the servers and the programs of Command can
// write: a test running as root needs one, because they do not run as root. With
// parent "" it is below the system's temporary folder. The caller removes it.
func MkdirTemp(parent, pattern string) (string, error) {
	who := unprivileged()
	return makeTemporary(parent, pattern, who, who.own)
}

// makeTemporary makes a folder that who can enter; prepare gives it its rights.
func makeTemporary(parent, pattern string, who *account, prepare func(dir string) error) (string, error) {
	parents := []string{parent}
	if parent == "" {
		parents = []string{os.TempDir(), "/tmp", "/var/tmp"}
	}
	var failure error
	for _, parent := range parents {
		dir, err := os.MkdirTemp(parent, pattern)
		if err != nil {
			failure = errors.Join(failure, err)
			continue
		}
		err = who.reach(dir)
		if err == nil {
			err = prepare(dir)
		}
		if err == nil {
			return dir, nil
		}
		failure = errors.Join(failure, err, os.Remove(dir))
	}
	return "", fmt.Errorf("make temporary folder: %w", failure)
}

// makePrivate makes dir, open to a alone, with all it holds belonging to a.
func makePrivate(dir string, a *account) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := a.reach(dir); err != nil {
		return fmt.Errorf("data folder %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protect data folder: %w", err)
	}
	if err := a.own(dir); err != nil {
		return fmt.Errorf("hand data folder to account %s: %w", a.name, err)
	}
	return nil
}

// folderLock is a folder that this process has for itself. The system lets go of
// it when we die.
type folderLock struct{ folder *os.File }

// release lets go of the folder. Closing it would not do: a child that another
// goroutine forks at this moment has a copy of the descriptor until its exec.
func (l folderLock) release() error {
	_ = syscall.Flock(int(l.folder.Fd()), syscall.LOCK_UN) // a file system without locks
	return l.folder.Close()
}

// lockFolder takes the folder, or fails with ErrInUse.
func lockFolder(dir string) (*folderLock, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	err = syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		folder.Close()
		return nil, fmt.Errorf("%s: %w: stop the other one, or choose another folder", dir, ErrInUse)
	}
	// A file system without locks is no reason to refuse: PostgreSQL has a lock of its own.
	return &folderLock{folder}, nil
}

// sweep removes temporary folders whose process was killed before it could. A
// folder that is locked belongs to a living one.
func sweep(parent string) {
	entries, err := filepath.Glob(filepath.Join(parent, temporaryPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range entries {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < leftoverAge {
			continue
		}
		lock, err := lockFolder(dir)
		if err != nil {
			continue
		}
		if !postmasterAlive(filepath.Join(dir, postgresFolder)) {
			_ = os.RemoveAll(dir) // another user's: not ours to remove
		}
		_ = lock.release()
	}
}

// postmasterAlive tells whether the process that the folder's lock file names exists.
func postmasterAlive(dir string) bool {
	pid := readPIDFile(dir).pid
	return pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// socketFolder returns where PostgreSQL puts its socket: the data folder, or
// nowhere if the name would be too long for the address of a socket.
func socketFolder(dir string) string {
	const longest = 103 // macOS; Linux allows 107
	if len(dir)+len("/.s.PGSQL.65535") > longest || strings.ContainsAny(dir, `",`) {
		return ""
	}
	return `"` + dir + `"`
}
