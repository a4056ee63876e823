package llm

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
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
