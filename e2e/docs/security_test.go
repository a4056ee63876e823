package docs

import (
	"io/fs"
	"os"
	"regexp"
	"testing"
)

// SECURITY.md names a test for each of its answers. Each must be there.
func TestSecurityNamesTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	there := testsThere(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 40 {
		t.Errorf("SECURITY.md names only %d tests", len(named))
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("SECURITY.md names %s, which is nowhere", m[1])
		}
	}
}

// testsThere are the names of all tests in the repository.
func testsThere(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	eachFile(t, "_test.go", func(_ string, source []byte) {
		for _, m := range declared.FindAllSubmatch(source, -1) {
			there[string(m[1])] = true
		}
	})
	return there
}

// orSkip is err, or says that a folder is passed over.
func orSkip(err error) error {
	if err != nil {
		return err
	}
	return fs.SkipDir
}
