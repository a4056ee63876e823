package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/guide.md names a file and a test for each of the guide's lines. Each must be there.
func TestGuideNamesWhatExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	there := testsThere(t)
	tests, files := 0, 0
	for line := range strings.Lines(string(text)) {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(line, -1) {
			if tests++; !there[m[1]] {
				t.Errorf("docs/guide.md names %s, which is nowhere", m[1])
			}
		}
		for _, m := range regexp.MustCompile(`[\w/]+\.go\b`).FindAllString(line, -1) {
			files++
			if _, err = os.Stat(filepath.Join(root, m)); err != nil {
				t.Errorf("docs/guide.md names a file that is not there: %v", err)
			}
		}
		if strings.HasPrefix(line, "|") && strings.Contains(line, ".go`") && !strings.Contains(line, "`Test") && !strings.Contains(line, "not tested") {
			t.Errorf("docs/guide.md names a file and no test for it: %s", line)
		}
	}
	if tests < 60 || files < 40 {
		t.Errorf("docs/guide.md names only %d tests and %d files", tests, files)
	}
}
