package devstack

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// An ordinary user without a home is what a container or a CI job often gives us.
func TestOrdinaryUserWithoutHome(t *testing.T) {
	needRoot(t)
	t.Parallel()
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	dir := folder(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t), copySelf(t, dir))
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=", "TMPDIR=" + dir, helperVariable + "=cycle"}
	who := newAccount(nobody)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who.uid, Gid: who.gid}}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if !strings.Contains(string(output), nobody.Uid+" "+dir) {
		t.Errorf("user and cache folder: %s", output)
	}
}

func TestRootDropsPrivileges(t *testing.T) {
	needRoot(t)
	t.Parallel()
	stack := startTest(t, Config{})
	for _, server := range []*Server{stack.Postgres, stack.Valkey} {
		if server == nil {
			continue
		}
		info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(server.PID())))
		if err != nil {
			t.Skip("no /proc")
		}
		if uid, _ := owner(info); uid == 0 || uid != unprivileged().uid {
			t.Errorf("%s runs as user %d", server.program.name(), uid)
		}
	}
}

func TestUnreachableFolderIsExplained(t *testing.T) {
	needRoot(t)
	t.Parallel()
	closed := t.TempDir() // 0700, root's
	_, err := Start(testContext(t), Config{Dir: filepath.Join(closed, "data")})
	if err == nil || !strings.Contains(err.Error(), "cannot enter") || !strings.Contains(err.Error(), "chmod o+x") {
		t.Errorf("Start: %v", err)
	}
}

// Root that opens a user's data once must not take them away from the user.
func TestExistingDataKeepTheirOwner(t *testing.T) {
	needRoot(t)
	t.Parallel()
	dir := folder(t)
	version := filepath.Join(dir, versionFile)
	if err := os.WriteFile(version, []byte("17\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(version, 4321, 4322); err != nil {
		t.Fatal(err)
	}
	if who := accountFor(dir); who.uid != 4321 || who.gid != 4322 {
		t.Errorf("account: %+v", who)
	}
	if err := os.Chown(version, 0, 0); err != nil {
		t.Fatal(err)
	}
	if who := accountFor(dir); who.uid != unprivileged().uid {
		t.Errorf("account for root's data: %+v", who)
	}
}

func TestCleanEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "elsewhere")
	t.Setenv("LC_MESSAGES", "fr_FR.UTF-8")
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("KEPT", "yes")
	env := strings.Join(cleanEnvironment(), "\n")
	for _, gone := range []string{"PGHOST", "LC_MESSAGES", "NOTIFY_SOCKET"} {
		if strings.Contains(env, gone+"=") {
			t.Errorf("%s is passed on", gone)
		}
	}
	for _, kept := range []string{"KEPT=yes", "LC_ALL=C"} {
		if !strings.Contains(env, kept) {
			t.Errorf("%s is missing", kept)
		}
	}
}
