package devstack

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// commandWait is how long a cancelled program's own children may keep its output open.
const commandWait = 5 * time.Second

// Command prepares one of PostgreSQL's own programs (pg_basebackup, pg_dump,
// psql, pgbench, …) from the same installation as the servers, to run as the
// account that they run as. Its environment has none of libpq's variables: tell
// it where to connect with an argument, such as Server.URL. When we are root it
// starts in /, so give it absolute paths, and folders from MkdirTemp to write to.
func Command(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	who := unprivileged()
	path, err := findProgram(program, who)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = commandWait
	who.apply(cmd)
	return cmd, nil
}

// findProgram looks beside the servers first: the versions have to match. The
// build that we download has the servers alone.
func findProgram(program string, who *account) (string, error) {
	for bindir := range installedFolders {
		path := filepath.Join(bindir, program)
		if executable(path) && who.reach(path) == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(program); err == nil && who.reach(path) == nil {
		return path, nil
	}
	return "", fmt.Errorf("find %s: %w has it: install PostgreSQL's client programs", program, ErrNoPostgres)
}
