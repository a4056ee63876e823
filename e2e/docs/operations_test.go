package docs

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/operations.md says of every metric of a replica what it means, of no other, and of every alert what to do.
func TestEveryMetricAndAlertIsDescribed(t *testing.T) {
	t.Parallel()
	p := readPage(t, "docs/operations.md")
	dev := running(t)
	_, text := dev.get(t, "/metrics", http.Header{"X-Api-Key": {dev.apiKey}})
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (forgewire_\w+) `).FindAllStringSubmatch(text, -1) {
		have[m[1]] = true
	}
	// Those with labels are there from their first use on.
	declared := map[string]bool{}
	for _, m := range regexp.MustCompile(`describe\("(\w+)"`).FindAllStringSubmatch(source(t, "handlers/metrics*.go"), -1) {
		declared["forgewire_"+m[1]] = true
	}
	for name := range have {
		if !declared[name] {
			t.Errorf("%s is a metric of a replica, and not found in its source: this test looks in the wrong place", name)
		}
	}
	if len(have) < 30 {
		t.Errorf("a replica has only %d metrics:\n%s", len(have), text)
	}
	compare(t, "metric", declared, first(p.rows(t, "## Metrics")))

	rules := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(source(t, "infra/deploy/prometheus/*.yml"), -1) {
		rules[m[1]] = true
	}
	compare(t, "alert", rules, first(p.rows(t, "## Alerts")))
	for _, row := range append(p.rows(t, "## Metrics"), p.rows(t, "## Alerts")...) {
		if len(row) != 3 || row[2] == "" {
			t.Errorf("docs/operations.md says nothing of %s", row[0])
		}
	}
}

// source is the text of all files that a pattern finds from the repository's root.
func source(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || files == nil {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

// first are the names in the first column, each of which may be there once.
func first(rows [][]string) map[string]bool {
	names := map[string]bool{}
	for _, row := range rows {
		names[strings.Trim(row[0], "`")] = true
	}
	return names
}

func compare(t *testing.T, what string, have, described map[string]bool) {
	t.Helper()
	for name := range have {
		if !described[name] {
			t.Errorf("docs/operations.md does not describe the %s %s", what, name)
		}
	}
	for name := range described {
		if !have[name] {
			t.Errorf("docs/operations.md describes the %s %s, which is not there", what, name)
		}
	}
}
