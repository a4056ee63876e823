package realtime

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"forgewire/db/dbtest"
)

func TestMain(m *testing.M) {
	code := dbtest.Main(m)
	if code == 0 {
		// The devstack's own goroutine waits for its server; everything of ours must be gone.
		// The published Go client leaves goroutines behind when it is closed, some of them for 5 s.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/centrifugal/centrifuge-go.(*cbQueue).dispatch"),
			goleak.IgnoreAnyFunction("github.com/centrifugal/centrifuge-go.(*Client).sendAsync.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
