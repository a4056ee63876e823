package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateLicences = flag.Bool("update-licences", false, "write docs/licences.md")

const (
	licencesFile = "../../docs/licences.md"
	licencesHead = `# Licences

Forgewire is under the Apache License 2.0. What is linked into the binary, and under which licence; a test compares the list
with the build (` + "`go test ./cmd/forgewire -run TestLicences -update-licences`" + ` writes it anew). ` + "`make sbom`" + ` lists the versions.

| module | licence |
|---|---|
`
	licencesTail = `
The pages have [centrifuge-js](https://github.com/centrifugal/centrifuge-js) (MIT) in them, as published. The image has Debian's
certificates (MPL-2.0) beside the binary.
`
)

// spoken are words that only one licence has.
var spoken = []struct{ words, licence string }{
	{"apache license version 2.0", "Apache-2.0"},
	{"mozilla public license version 2.0", "MPL-2.0"},
	{"neither the name of", "BSD-3-Clause"},
	{"redistributions in binary form must reproduce", "BSD-2-Clause"},
	{"permission is hereby granted, free of charge", "MIT"},
	{"permission to use, copy, modify, and/or distribute this software for any purpose", "ISC"},
	{"permission to use, copy, modify, and distribute this software for any purpose", "ISC"},
}

// allowed are licences under which a binary may be given away as it is, with its source under any other. MPL-2.0 is so for
// modules that are linked as they were published, as all of ours are.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}

// docs/licences.md lists every module that is linked, and each has a licence that we may use.
func TestLicences(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("list the dependencies: %v", err)
	}
	modules := slices.Compact(slices.Sorted(strings.Lines(string(out))))
	var list strings.Builder
	list.WriteString(licencesHead)
	for _, line := range modules {
		module, dir, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue // ours, or the standard library's
		}
		licence := licenceIn(t, dir)
		if !slices.Contains(allowed, licence) {
			t.Errorf("%s is under %q", module, licence)
		}
		fmt.Fprintf(&list, "| %s | %s |\n", module, licence)
	}
	list.WriteString(licencesTail)
	if n := strings.Count(list.String(), "\n"); n < 50 {
		t.Fatalf("only %d lines: the list is not that of the binary", n)
	}
	if *updateLicences {
		if err := os.WriteFile(licencesFile, []byte(list.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(licencesFile)
	if err != nil || string(written) != list.String() {
		t.Errorf("docs/licences.md is not what is linked (%v): run go test ./cmd/forgewire -run TestLicences -update-licences", err)
	}
}

// licenceIn reads a module's licence. Where it is offered under two, the first that we know counts.
func licenceIn(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.ToLower(f.Name())
		if f.IsDir() || !strings.HasPrefix(name, "licen") && !strings.HasPrefix(name, "copying") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		plain := strings.ReplaceAll(strings.ToLower(strings.Join(strings.Fields(string(text)), " ")), "license, version", "license version")
		for _, s := range spoken {
			if strings.Contains(plain, s.words) {
				return s.licence
			}
		}
	}
	return "unknown"
}
