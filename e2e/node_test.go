package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// missing skips a test for want of a program, except where nobody would notice.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// node runs a script beside the published packages and returns what it prints.
func node(t *testing.T, script string, env ...string) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		missing(t, "Node is not installed")
	}
	if _, err = os.Stat("node_modules/centrifuge"); err != nil {
		missing(t, "the JavaScript client is not installed: run e2e/setup.sh")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "CI=" + os.Getenv("CI")}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// The published JavaScript client works unchanged.
func TestNodeClient(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	out := node(t, "node/client.mjs", "A="+c.replicas[0].addr, "B="+c.replicas[1].addr, "API_KEY="+apiKey,
		"TOKEN="+sign(t, tokenSecret, "ann", time.Hour), "EXPIRED="+sign(t, tokenSecret, "ann", -time.Minute))
	if n := strings.Count(out, "ok   "); n != 5 {
		t.Errorf("%d of 5 are ok:\n%s", n, out)
	}
}

// A published SDK of Centrifugo's server API works unchanged.
func TestServerSDK(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{env: []string{`FORGEWIRE_NAMESPACES={"namespaces":[{"name":"here","presence":true}]}`}})
	out := node(t, "node/cent.mjs", "A="+c.replicas[0].addr, "B="+c.replicas[1].addr, "API_KEY="+apiKey,
		"TOKEN="+sign(t, tokenSecret, "ann", time.Hour))
	if n := strings.Count(out, "ok   "); n != 12 {
		t.Errorf("%d of 12 are ok:\n%s", n, out)
	}
}
