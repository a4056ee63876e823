package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// program is a server of somebody else's, with a configuration that the test writes.
type program struct {
	t    testing.TB
	name string
	args []string
	env  []string
	port int
	log  *logBuffer
	cmd  *exec.Cmd
}

// install finds a program, or skips the test for want of it.
func install(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		// Debian keeps servers where users do not look.
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			missing(t, name+" is not installed: run e2e/setup.sh")
		}
	}
	return path
}

// place writes a program's file where the program may read it, whoever it runs as.
func place(t testing.TB, name, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "forgewire-e2e-program-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err = errors.Join(os.Chmod(dir, 0o777), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts it and waits until it accepts connections on its port.
func (p *program) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	endWithUs(p.cmd)
	// Some of them refuse to be root.
	if nobody, err := user.Lookup("nobody"); err == nil && os.Geteuid() == 0 {
		uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		p.stop()
		if p.t.Failed() {
			p.t.Logf("%s: %s", p.name, p.log)
		}
	})
	until(p.t, 20*time.Second, p.name+" listening", func() string {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			return fmt.Sprintf("%v; %s", err, p.log)
		}
		conn.Close()
		return ""
	})
}

// stop ends it, with all that it started, at once.
func (p *program) stop() {
	if p.cmd == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // its group
	_ = p.cmd.Wait()                                      // killed is how it ends
	p.cmd = nil
}

func (p *program) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }
