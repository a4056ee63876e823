package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The exit codes of `bench compare` are what a CI job goes by.
func TestBenchCompareExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	report := func(rate string) string {
		return `{"format": 1, "results": [{"bench": "fanout", "tables": [{"name": "load", "rows": [{"name": "all", "figures": [{"name": "rate", "value": ` + rate + `, "better": "more"}]}]}]}]}`
	}
	before, same, slow, broken := write("a.json", report("1000")), write("b.json", report("900")), write("c.json", report("500")), write("d.json", "{")
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{before, same}, 0}, {[]string{before, slow}, exitWorse}, {[]string{slow, before}, 0}, {[]string{before, slow, "--worse", "3"}, 0},
		{[]string{before, broken}, exitFailed}, {[]string{before, filepath.Join(dir, "none.json")}, exitUsage}, {[]string{before}, exitUsage},
	} {
		if got := run(append([]string{"bench", "compare"}, c.args...)); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.args, got, c.want)
		}
	}
}
