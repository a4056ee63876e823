package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Whatever decodes what strangers send has inputs that are tried with each run of the tests, also without fuzzing.
func TestEveryFuzzTestHasACorpus(t *testing.T) {
	t.Parallel()
	declared := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	found := 0
	eachFile(t, "_test.go", func(path string, source []byte) {
		for _, m := range declared.FindAllSubmatch(source, -1) {
			found++
			corpus := filepath.Join(filepath.Dir(path), "testdata", "fuzz", string(m[1]))
			if files, err := os.ReadDir(corpus); len(files) < 3 {
				t.Errorf("%s has %d inputs in %s (%v)", m[1], len(files), corpus, err)
			}
		}
	})
	if found < 15 {
		t.Errorf("%d fuzz tests: they are not looked for where they are", found)
	}
}

// secretName is what keys, passwords, and what is made of them, are called.
var secretName = regexp.MustCompile(`(?i)(password|secret|hash|mac|signature|apikey|serverkey)$`)

// Nothing that is secret is compared byte by byte, which would tell by its time how much was right: crypto/subtle and
// crypto/hmac compare in the same time whatever they get.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	t.Parallel()
	const wrong = `package x
		func a(password, given string) bool { return password == given }
		func b(s struct{ keyHash []byte }, given []byte) bool { return bytes.Equal(given, s.keyHash[:]) }
		func c(mac, given []byte) bool { return hmac.Equal(mac, given) && password != "" && hash != nil }`
	if found := comparisons(t, "wrong.go", []byte(wrong)); len(found) != 2 {
		t.Fatalf("the test does not see what is wrong: %q", found)
	}
	right := 0
	eachFile(t, ".go", func(path string, source []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		right += strings.Count(string(source), "subtle.ConstantTimeCompare(") + strings.Count(string(source), "hmac.Equal(")
		for _, at := range comparisons(t, path, source) {
			t.Errorf("%s: compare with crypto/subtle", at)
		}
	})
	if right < 5 {
		t.Errorf("%d comparisons in constant time: they are not looked for where they are", right)
	}
}

// comparisons are the places where something that is secret is compared as anything else.
func comparisons(t *testing.T, path string, source []byte) (places []string) {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, path, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		var compared []ast.Expr
		switch x := n.(type) {
		case *ast.BinaryExpr:
			if x.Op == token.EQL || x.Op == token.NEQ {
				compared = []ast.Expr{x.X, x.Y}
			}
		case *ast.CallExpr:
			s, ok := x.Fun.(*ast.SelectorExpr)
			if ok && nameOf(s.X) != "hmac" && (s.Sel.Name == "Equal" || s.Sel.Name == "EqualFold" || s.Sel.Name == "Compare" || s.Sel.Name == "HasPrefix") {
				compared = x.Args
			}
		}
		isSecret := false
		for _, e := range compared {
			if _, literal := e.(*ast.BasicLit); literal || nameOf(e) == "nil" {
				return true // whether there is one is no secret
			}
			isSecret = isSecret || secretName.MatchString(nameOf(e))
		}
		if isSecret {
			places = append(places, files.Position(n.Pos()).String())
		}
		return true
	})
	return places
}

// nameOf is what an expression is called: the last of its names.
func nameOf(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.CallExpr:
		return nameOf(x.Fun)
	case *ast.IndexExpr:
		return nameOf(x.X)
	case *ast.SliceExpr:
		return nameOf(x.X)
	case *ast.ParenExpr:
		return nameOf(x.X)
	case *ast.StarExpr:
		return nameOf(x.X)
	}
	return ""
}

// What others found in what we use is mended in the versions that we use.
func TestDependenciesAreNewerThanTheirAdvisories(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for module, least := range map[string][3]int{
		"github.com/jackc/pgx/v5":      {5, 9, 2},  // CVE-2024-27304, CVE-2026-33815, GHSA-j88v-2chj-qfwx
		"github.com/golang-jwt/jwt/v5": {5, 2, 2},  // CVE-2025-30204
		"github.com/go-chi/chi/v5":     {5, 3, 0},  // GHSA-3fxj-6jh8-hvhx
		"github.com/coder/websocket":   {1, 8, 15}, // the first whose checks of Origin and Host were read
	} {
		m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(string(mod))
		if m == nil {
			t.Errorf("%s is not in go.mod", module)
			continue
		}
		var have [3]int
		for i := range have {
			have[i], _ = strconv.Atoi(m[i+1]) // digits
		}
		if have[0] < least[0] || have[0] == least[0] && (have[1] < least[1] || have[1] == least[1] && have[2] < least[2]) {
			t.Errorf("%s is %v, at least %v is needed", module, have, least)
		}
	}
}

// eachFile reads every file of the repository whose name ends so.
func eachFile(t *testing.T, ending string, read func(path string, source []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return orSkip(err)
		}
		if d.IsDir() || !strings.HasSuffix(path, ending) {
			return nil
		}
		source, err := os.ReadFile(path)
		if err == nil {
			read(path, source)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
