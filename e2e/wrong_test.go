package e2e

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"forgewire/infra/devstack"
)

// accidents is a page of memory that a library of ours, loaded into PostgreSQL, reads: see testdata/accidents.c.
type accidents struct{ library, file string }

// What can be wrong, by its place in the page.
const (
	clockSeconds = iota
	fullData
	fullWAL
	syncFails
	syncMicros
	refusals
	accidentKinds
)

// newAccidents compiles the library; nil where that is impossible.
func newAccidents(t *testing.T) *accidents {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil || runtime.GOOS != "linux" {
		t.Log("no disk that is full and no clock that is wrong: that takes Linux and gcc")
		return nil
	}
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-accidents-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &accidents{library: filepath.Join(dir, "accidents.so"), file: filepath.Join(dir, "now")}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-o", a.library, "testdata/accidents.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("compile the accidents: %v\n%s", err, out)
	}
	if err = os.WriteFile(a.file, make([]byte, 8*accidentKinds), 0o666); err == nil {
		err = os.Chmod(a.file, 0o666)
	}
	if err == nil {
		err = os.Chmod(a.library, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// set makes something wrong, or right again with 0.
func (a *accidents) set(t testing.TB, kind int, value int64) {
	t.Helper()
	f, err := os.OpenFile(a.file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(value)), int64(8*kind))
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (a *accidents) get(t testing.TB, kind int) int64 {
	t.Helper()
	b, err := os.ReadFile(a.file)
	if err != nil {
		t.Fatal(err)
	}
	return int64(binary.NativeEndian.Uint64(b[8*kind:]))
}

// preload starts a server anew with the library in it.
func (a *accidents) preload(t testing.TB, s *devstack.Server) {
	t.Helper()
	if a == nil {
		return
	}
	s.Setenv("LD_PRELOAD="+a.library, "FORGEWIRE_E2E_ACCIDENTS="+a.file)
	stop(t, s)
	start(t, s)
}
