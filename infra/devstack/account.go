package devstack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// overflowUID is "nobody" where the system has no such name.
const overflowUID = 65534

// account is the user that the servers run as; nil means ourselves. PostgreSQL
// refuses to run as root, so root hands its servers to an account without rights.
type account struct {
	uid, gid uint32
	name     string
}

// unprivileged returns the account for new data, nil unless we are root.
func unprivileged() *account {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			if a := newAccount(u); a.uid != 0 {
				return a
			}
		}
	}
	return &account{uid: overflowUID, gid: overflowUID, name: strconv.Itoa(overflowUID)}
}

// newAccount reads the numbers of u, which are decimal on every Unix.
func newAccount(u *user.User) *account {
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &account{uid: uint32(uid), gid: uint32(gid), name: u.Username}
}

// accountFor returns who is to run the servers on dir. Data that an ordinary
// user has made stay theirs when root opens them once.
func accountFor(dir string) *account {
	a := unprivileged()
	if a == nil {
		return nil
	}
	info, err := os.Stat(filepath.Join(dir, versionFile))
	if err != nil {
		return a
	}
	uid, gid := owner(info)
	if uid == 0 || uid == a.uid {
		return a
	}
	return &account{uid: uid, gid: gid, name: strconv.FormatUint(uint64(uid), 10)}
}

func owner(info fs.FileInfo) (uid, gid uint32) {
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid, stat.Gid
}

// apply makes cmd run as a, in a folder that a can enter and without the
// settings of our own environment that would reach into the server.
func (a *account) apply(cmd *exec.Cmd) {
	cmd.Env = cleanEnvironment()
	if a == nil {
		return
	}
	cmd.Env = append(cmd.Env, "HOME="+os.TempDir())
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

// cleanEnvironment is ours without libpq's variables, which would change where
// and how a program connects, without the service manager's socket, to which a
// server would report itself, and with messages in English, which we read.
func cleanEnvironment() []string {
	var env []string
	for _, entry := range os.Environ() {
		key, _, _ := strings.Cut(entry, "=")
		switch {
		case strings.HasPrefix(key, "PG"), strings.HasPrefix(key, "LC_"):
		case key == "LANG", key == "LANGUAGE", key == "NOTIFY_SOCKET":
		default:
			env = append(env, entry)
		}
	}
	return append(env, "LC_ALL=C")
}

// own gives dir and everything in it to a. Links are not followed. Files may
// vanish meanwhile: a server whose process was killed is still cleaning up.
func (a *account) own(dir string) error {
	if a == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = a.ownOne(path, entry)
		}
		if path != dir && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (a *account) ownOne(path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if uid, _ := owner(info); uid == a.uid {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// reach checks that a can enter every folder above path. The server itself would
// only say "permission denied", without the folder and without a way out.
func (a *account) reach(path string) error {
	if a == nil {
		return nil
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("look up %s: %w", path, err)
	}
	for dir := filepath.Dir(resolved); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("look up %s: %w", dir, err)
		}
		if !a.enters(info) {
			return fmt.Errorf("account %s cannot enter %s (%s), which %s is in: "+
				"servers do not run as root, so choose a folder elsewhere (below /var/lib or /tmp), "+
				"allow others to enter (chmod o+x %s), or run as an ordinary user",
				a.name, dir, info.Mode(), path, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// enters tells whether the permission bits let a pass through a folder.
func (a *account) enters(info fs.FileInfo) bool {
	uid, gid := owner(info)
	switch {
	case uid == a.uid:
		return info.Mode()&0o100 != 0
	case gid == a.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}
