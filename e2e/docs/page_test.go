package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// root is the repository, from where the tests run.
const root = "../.."

// page is a document as its readers meet it.
type page struct {
	path    string // from the repository's root
	text    string
	blocks  []block
	anchors map[string]bool
	links   []link
}

// block is what stands between two fences.
type block struct {
	line     int
	language string
	code     string
	note     string // the comment on the line before it, which only tests read
}

type link struct {
	line   int
	target string
}

var (
	fence   = regexp.MustCompile("^\\s*```(.*)$")
	comment = regexp.MustCompile(`^<!-- (.*) -->$`)
	heading = regexp.MustCompile(`^#{1,6} (.*)$`)
	linked  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	coded   = regexp.MustCompile("`[^`]*`")
)

// pages reads all documents of the repository.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	found := map[string]*page{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules") {
			return orSkip(err)
		}
		if filepath.Ext(path) == ".md" {
			name := filepath.ToSlash(strings.TrimPrefix(path, filepath.FromSlash(root)+string(filepath.Separator)))
			found[name] = readPage(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func readPage(t *testing.T, name string) *page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	p := &page{path: name, text: string(text), anchors: map[string]bool{}}
	var open *block
	before, n := "", 0
	for line := range strings.Lines(p.text) {
		n++
		line = strings.TrimRight(line, "\n")
		if m := fence.FindStringSubmatch(line); m != nil {
			if open != nil {
				p.blocks, open = append(p.blocks, *open), nil
				continue
			}
			open = &block{line: n, language: m[1]}
			if c := comment.FindStringSubmatch(before); c != nil {
				open.note = c[1]
			}
			continue
		}
		before = line
		if open != nil {
			open.code += line + "\n"
			continue
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			p.anchors[p.anchor(m[1])] = true
		}
		for _, m := range linked.FindAllStringSubmatch(coded.ReplaceAllString(line, ""), -1) {
			p.links = append(p.links, link{line: n, target: m[1]})
		}
	}
	if open != nil {
		t.Errorf("%s:%d: a block that does not end", name, open.line)
	}
	return p
}

// anchor is what GitHub makes of a heading.
func (p *page) anchor(title string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(title))
	unique := name
	for i := 1; p.anchors[unique]; i++ {
		unique = name + "-" + strconv.Itoa(i)
	}
	return unique
}

// section is the text below a heading, up to the next one of any level.
func (p *page) section(t *testing.T, title string) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.text, "\n"+title+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", p.path, title)
	}
	if end := regexp.MustCompile(`(?m)^#{1,6} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// rows are a section's table, without its head.
func (p *page) rows(t *testing.T, title string) (rows [][]string) {
	t.Helper()
	for line := range strings.Lines(p.section(t, title)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		// A bar inside of a cell is written as \|.
		cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "|"), `\|`, "\x00"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], "\x00", "|"))
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("%s has no table below %q", p.path, title)
	}
	return rows[2:]
}

// Links within the repository lead somewhere, anchors included; and every document of docs/ can be found from its index.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	fromIndex := map[string]bool{"docs/README.md": true}
	checked := 0
	for name, p := range all {
		for _, l := range p.links {
			if strings.Contains(l.target, "://") {
				continue
			}
			checked++
			file, anchor, _ := strings.Cut(l.target, "#")
			to := name
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil || strings.HasPrefix(to, "..") {
				t.Errorf("%s:%d: %s is not there", name, l.line, l.target)
				continue
			}
			if anchor != "" && (all[to] == nil || !all[to].anchors[anchor]) {
				t.Errorf("%s:%d: %s has no heading for #%s", name, l.line, to, anchor)
			}
			if name == "docs/README.md" {
				fromIndex[to] = true
			}
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "docs/") && !fromIndex[name] {
			t.Errorf("docs/README.md does not lead to %s", name)
		}
	}
	if checked < 60 {
		t.Errorf("only %d links were checked", checked)
	}
}
