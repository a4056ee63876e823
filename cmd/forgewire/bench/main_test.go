package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binary is forgewire, which is not this test's own program.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "forgewire-bench-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "forgewire")
	if out, err := exec.Command("go", "build", "-o", binary, "forgewire/cmd/forgewire").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build forgewire: %v: %s\n", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // a temporary folder: no harm if it stays
		os.Exit(code)
	}))
}
