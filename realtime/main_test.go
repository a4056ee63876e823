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
		// The devstack's own goroutine waits for its server; everything of ours must be gone. The published Go
		// client leaves the one that calls back behind where it is closed while it reconnects.
		if err := goleak.Find(goleak.IgnoreTopFunction("github.com/centrifugal/centrifuge-go.(*cbQueue).dispatch")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
