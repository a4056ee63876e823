package devstack

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

const (
	logName  = "server.log" // in the data folder
	logLimit = 16 << 20     // a longer log is set aside at the next start
	tailSize = 4 << 10
	tailRows = 20
)

// serverLog is the file that one run of a server writes to.
type serverLog struct {
	path  string
	start int64 // where this run begins
}

// openLog opens the log for appending. The caller closes the file once the
// server has inherited it.
func openLog(path string, a *account) (*os.File, serverLog, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, serverLog{}, fmt.Errorf("set aside server log: %w", err)
		}
	}
	// No link is followed: the account owns the folder, and as root we give the
	// file to it below, which must not be one that it chose.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, serverLog{}, fmt.Errorf("open server log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && a != nil {
		err = file.Chown(int(a.uid), int(a.gid))
	}
	if err != nil {
		file.Close()
		return nil, serverLog{}, fmt.Errorf("open server log: %w", err)
	}
	return file, serverLog{path: path, start: info.Size()}, nil
}

// tail returns the last lines of this run.
func (l serverLog) tail() string {
	file, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	from := max(l.start, info.Size()-tailSize)
	text, err := io.ReadAll(io.NewSectionReader(file, from, tailSize))
	if err != nil {
		return ""
	}
	return lastLines(string(text))
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-tailRows):], "\n")
}
