package docs

import (
	"regexp"
	"strings"
	"testing"
)

// docs/guarantees.md names a test for each promise. Each must be there, and be marked if `make test` does not run it.
func TestGuaranteesNameTests(t *testing.T) {
	t.Parallel()
	p := readPage(t, "docs/guarantees.md")
	there := testsThere(t)
	further := map[string]bool{}
	eachFile(t, "_test.go", func(_ string, source []byte) {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) \{\n\tvariant\(t\)`).FindAllSubmatch(source, -1) {
			further[string(m[1])] = true
		}
	})
	test := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`(†?)")
	named := test.FindAllStringSubmatch(p.text, -1)
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("docs/guarantees.md names %s, which is nowhere", m[1])
		}
		if marked := m[2] != ""; marked != further[m[1]] {
			t.Errorf("docs/guarantees.md: %s is marked: %v, is left to make test-long: %v", m[1], marked, further[m[1]])
		}
	}
	for title := range strings.Lines(p.text) {
		title = strings.TrimSpace(title)
		if !strings.HasPrefix(title, "## ") || title == "## Not promised" {
			continue
		}
		for _, row := range p.rows(t, title) {
			if len(row) != 3 || !test.MatchString(row[2]) {
				t.Errorf("docs/guarantees.md, %q: no test holds %q", title, row[0])
			}
		}
	}
	if len(named) < 80 {
		t.Errorf("docs/guarantees.md names only %d tests", len(named))
	}
}
