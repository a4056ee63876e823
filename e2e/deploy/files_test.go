// Package deploy checks the files that deploy Forgewire, with the types and parsers of the tools that read them. It is a
// module of its own, so that the product does not depend on those.
package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// variables are the names of docs/configuration.md, which a test of infra/config keeps equal to the struct, and those
// of the files that secrets may stand in.
func variables(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|.*$").FindAllStringSubmatch(read(t, "docs/configuration.md"), -1) {
		names[row[1]] = true
		if strings.Contains(row[0], "(*secret*)") {
			names[row[1]+"_FILE"] = true
		}
	}
	if len(names) < 10 {
		t.Fatalf("only %d variables in docs/configuration.md", len(names))
	}
	return names
}

// settings are what one replica is given, by name; a value that the platform fills in is "".
type settings map[string]string

// check demands that a replica starts with them: everything known, what is required there.
func (s settings) check(t *testing.T) {
	t.Helper()
	known := variables(t)
	for name := range s {
		if !known[name] {
			t.Errorf("%s is not in docs/configuration.md", name)
		}
	}
}

func (s settings) checkRequired(t *testing.T) {
	t.Helper()
	for _, name := range []string{"DATABASE_URL", "FORGEWIRE_API_KEY", "FORGEWIRE_TOKEN_SECRET"} {
		_, direct := s[name]
		_, file := s[name+"_FILE"]
		if direct == file {
			t.Errorf("%s is given directly: %v, in a file: %v", name, direct, file)
		}
	}
}

// knowsClients demands that limits by address are not the proxy's: in which header the platform says who connects.
func (s settings) knowsClients(t *testing.T, header string) {
	t.Helper()
	if got := s["FORGEWIRE_CLIENT_IP_HEADER"]; got != header {
		t.Errorf("FORGEWIRE_CLIENT_IP_HEADER is %q, and the proxy in front writes %s", got, header)
	}
}

// ownConnections are what a replica takes of Postgres besides those for requests: its two other pools, its listener and its
// drainer.
func ownConnections(t *testing.T) int {
	t.Helper()
	own := 2
	pools := regexp.MustCompile(`(?m)^const (?:publish|flight)Conns = (\d+)$`).FindAllStringSubmatch(read(t, "cmd/forgewire/base.go"), -1)
	if len(pools) != 2 {
		t.Fatalf("other pools than two in cmd/forgewire/base.go: %v", pools)
	}
	for _, m := range pools {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		own += n
	}
	return own
}

// countsConnections demands that the file says how many connections to Postgres so many replicas take, and that Postgres
// can be set to have as many.
func (s settings) countsConnections(t *testing.T, path string, replicas int) {
	t.Helper()
	each := s.number(t, "FORGEWIRE_DB_POOL_MAX") + ownConnections(t)
	if sum := fmt.Sprintf("%d × %d = %d", replicas, each, replicas*each); !strings.Contains(read(t, path), sum) || replicas*each > 500 {
		t.Errorf("%s: %s connections to Postgres", path, sum)
	}
}

// What the documents say of the connections of a replica as it is by default.
func TestConnectionsAreCounted(t *testing.T) {
	const requests = 35 // FORGEWIRE_DB_POOL_MAX
	own := ownConnections(t)
	for path, text := range map[string]string{
		"docs/configuration.md":     fmt.Sprintf("`%d` | connections to Postgres for requests; a replica has up to %d more", requests, own),
		"docs/operations.md":        fmt.Sprintf("up to %d, which is [%d for requests and %d of its own]", requests+own, requests, own),
		"infra/deploy/compose.yaml": fmt.Sprintf("2 × %d = %d", requests+own, 2*(requests+own)),
	} {
		if !strings.Contains(read(t, path), text) {
			t.Errorf("%s does not say %q", path, text)
		}
	}
}

func (s settings) number(t *testing.T, name string) int {
	t.Helper()
	n, err := strconv.Atoi(s[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func (s settings) duration(t *testing.T, name string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}
