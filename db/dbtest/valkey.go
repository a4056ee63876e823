package dbtest

import (
	"context"
	"errors"
	"os"
	"testing"

	"forgewire/infra/devstack"
)

// Valkey starts a Valkey server with these settings, which t may hurt. It ends with t, and t is skipped where there is none.
func Valkey(t testing.TB, settings map[string]string) *devstack.Server {
	t.Helper()
	dir, err := devstack.MkdirTemp("", "valkey-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server, err := devstack.StartValkey(t.Context(), dir, settings, nil)
	if errors.Is(err, devstack.ErrNoValkey) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}
