package realtime

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The published JavaScript client works unchanged over each transport, also when every command that travels
// apart reaches the other replica.
func TestJavaScriptTransports(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat("../e2e/node_modules/centrifuge")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("Node or the JavaScript client is not installed: run e2e/setup.sh")
	}
	a, b := twoReplicas(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "../e2e/node/transports.mjs")
	cmd.Env = append(os.Environ(), "A="+a.http.URL, "B="+b.http.URL)
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "ok   "); err != nil || n != 6 {
		t.Fatalf("%d of 6 are ok: %v\n%s", n, err, out)
	}
}
