package docs

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goPackage is what `go list` says of a package.
type goPackage struct {
	ImportPath string
	Imports    []string

	TestImports, XTestImports []string
}

// The folders' table in ARCHITECTURE.md and what Go sees are the same: every package is named, every package that is
// named is there, and no folder imports what the table does not let it.
func TestArchitectureAgreesWithTheImports(t *testing.T) {
	t.Parallel()
	allowed, named := architecture(t)
	crossed := 0
	for _, p := range listPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, "forgewire/")
		top := topFolder(path)
		may, known := allowed[top]
		if !known {
			t.Errorf("ARCHITECTURE.md has no row for %s", path)
			continue
		}
		if !named[path] {
			t.Errorf("ARCHITECTURE.md does not name %s", path)
		}
		delete(named, path)
		imports := p.Imports
		if top == "e2e" { // which has nothing but tests
			imports = append(p.TestImports, p.XTestImports...)
		}
		for _, i := range imports {
			other, ours := strings.CutPrefix(i, "forgewire/")
			if !ours || topFolder(other) == top {
				continue
			}
			if crossed++; !slices.Contains(may, topFolder(other)) {
				t.Errorf("%s imports %s, and ARCHITECTURE.md lets it import only %v", path, other, may)
			}
		}
	}
	for path := range named {
		t.Errorf("ARCHITECTURE.md names %s, where no package is", path)
	}
	if crossed < 30 {
		t.Errorf("only %d imports were compared", crossed)
	}
}

func topFolder(path string) string {
	top, rest, _ := strings.Cut(path, "/")
	if top == "cmd" {
		binary, _, _ := strings.Cut(rest, "/")
		return top + "/" + binary
	}
	return top
}

// architecture reads the table: what each folder may import, and the packages that it names. In a folder's row `word`
// and `folder/word` are packages below the folder.
func architecture(t *testing.T) (allowed map[string][]string, named map[string]bool) {
	t.Helper()
	allowed, named = map[string][]string{}, map[string]bool{}
	name := regexp.MustCompile("`([a-z0-9/]+)`")
	for _, row := range readPage(t, "ARCHITECTURE.md").rows(t, "## Folders") {
		folder := strings.Trim(row[0], "`")
		named[folder] = true
		for _, m := range name.FindAllStringSubmatch(row[1], -1) {
			if below := strings.TrimPrefix(m[1], folder+"/"); !strings.Contains(below, "/") {
				named[folder+"/"+below] = true
			}
		}
		allowed[folder] = nil
		for _, m := range name.FindAllStringSubmatch(row[2], -1) {
			allowed[folder] = append(allowed[folder], m[1])
		}
	}
	delete(named, "infra") // which is a folder of packages and none itself
	return allowed, named
}

func listPackages(t *testing.T) (all []goPackage) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "forgewire/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err = dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
