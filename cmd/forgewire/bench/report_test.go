package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func exampleReport() *Report {
	times := Times{Name: receive, Count: 20_000, P50: 1, P75: 1.5, P90: 2, P95: 3, P99: 9, P999: 20, P9999: 30, Max: 31}
	return &Report{Format: reportFormat, Command: "forgewire bench all", Target: "here", Machine: Machine{CPU: "A <CPU>", Cores: 2}, Results: []*Result{
		{Bench: "fanout", What: "push", Tables: []*Table{
			{Name: "load", Charts: []Chart{{Title: "rates", Kind: bars, Y: acked}, {Title: "times", Kind: percentiles, Y: receive, Log: true}}, Rows: []*Row{
				{Name: "1 publisher", Figures: []Figure{more(acked, "/s", 1000), less("CPU", "µs", 50), plain("base", "MB", 7)}, Times: []Times{times}, Tally: &Tally{Asked: 1000, Succeeded: 1000}},
				{Name: "1 publisher, floor", Figures: []Figure{more(acked, "/s", 2000)}, Times: []Times{times}},
			}},
			{Name: "seconds", Drawn: true, Charts: []Chart{{Title: "by second", Kind: lines, X: "second", Y: "longest"}}, Rows: []*Row{
				{Name: "a, 0", Series: "a", Figures: []Figure{plain("second", "", 0), plain("longest", "ms", 3)}}, {Name: "a, 1", Series: "a", Figures: []Figure{plain("second", "", 1), plain("longest", "ms", 5)}},
			}},
		}},
		{Bench: "llm", What: "not measured", Skipped: "it needs a devstack"},
	}}
}

var usual = Thresholds{Worse: 1.25, Tail: 2, Success: 0.001}

func TestCompare(t *testing.T) {
	row := func(r *Report) *Row { return r.Results[0].Tables[0].Rows[0] }
	for name, c := range map[string]struct {
		change func(r *Report)
		worse  int
		better int
		word   string
	}{
		"nothing":         {change: func(*Report) {}},
		"a little slower": {change: func(r *Report) { row(r).Figures[0].Value = 810 }},
		"slower":          {change: func(r *Report) { row(r).Figures[0].Value = 790 }, worse: 1, word: "fanout, load, 1 publisher"},
		"faster":          {change: func(r *Report) { row(r).Figures[0].Value = 1300 }, better: 1},
		"dearer":          {change: func(r *Report) { row(r).Figures[1].Value = 63 }, worse: 1, word: "CPU, µs"},
		"cheaper":         {change: func(r *Report) { row(r).Figures[1].Value = 30 }, better: 1},
		"not judged":      {change: func(r *Report) { row(r).Figures[2].Value = 700 }},
		"a longer median": {change: func(r *Report) { row(r).Times[0].P50 = 1.3 }, worse: 1, word: "receive p50, ms"},
		"a tail within":   {change: func(r *Report) { row(r).Times[0].P99 = 17 }},
		"a longer tail":   {change: func(r *Report) { row(r).Times[0].P99 = 19 }, worse: 1, word: "receive p99, ms"},
		"errors": {change: func(r *Report) {
			row(r).Tally = &Tally{Asked: 1000, Succeeded: 998, Errors: map[string]int{"status 503": 2}}
		}, worse: 1, word: "success"},
		"a row is missing":   {change: func(r *Report) { r.Results[0].Tables[0].Rows = r.Results[0].Tables[0].Rows[:1] }, worse: 1, word: "missing"},
		"a bench is missing": {change: func(r *Report) { r.Results = r.Results[1:] }, worse: 1, word: "missing"},
		"a bench failed":     {change: func(r *Report) { r.Results[0] = &Result{Bench: "fanout", Failed: "no disk"} }, worse: 1, word: "missing"},
		"another machine":    {change: func(r *Report) { r.Machine.Cores = 64 }, word: "another machine"},
		"done differently":   {change: func(r *Report) { r.Results[0].What = "push, for longer" }, word: "done differently"},
	} {
		after := exampleReport()
		c.change(after)
		got := Compare(exampleReport(), after, usual)
		better := 0
		for _, a := range got.Changes {
			if a.Verdict == "better" {
				better++
			}
		}
		var b strings.Builder
		if err := got.Print(&b, false); err != nil {
			t.Fatal(err)
		}
		if got.Worse != c.worse || better != c.better || !strings.Contains(b.String(), c.word) {
			t.Errorf("%s: %d worse, %d better\n%s", name, got.Worse, better, &b)
		}
	}
}

// The page is one file: it names nothing from elsewhere, and what it shows is escaped.
func TestHTML(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	if err := exampleReport().WriteHTML(file); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"A &lt;CPU&gt;", "<rect ", "<polyline ", "1 publisher", "it needs a devstack", "prefers-color-scheme:dark", "p99.99", `name="viewport"`, "</html>"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q", want)
		}
	}
	for _, bad := range []string{"<script", "<link", "src=", "url(", "@import", "NaN", "Inf", "ZgotmplZ", "a, 1</td>"} {
		if strings.Contains(text, bad) {
			t.Errorf("there is %q", bad)
		}
	}
	if n := regexp.MustCompile(`<svg [^>]*>`).FindAllString(text, -1); len(n) != 3 {
		t.Errorf("%d drawings", len(n))
	}
}

func TestCommandHidesSecrets(t *testing.T) {
	got := Command([]string{"bench", "all", "--url", "http://user:secret@host:8080", "--api-key", "secret", "--token=secret", "--key", "secret",
		"--database-url=postgres://u:secret@h/d", "--quick"})
	if want := "forgewire bench all --url http://host:8080 --api-key … --token=… --key … --database-url=… --quick"; got != want {
		t.Errorf("%s", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.00123: "0.0012", 0.061: "0.06", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 999.6: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := Number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0.61: "0.61", 999: "999", 40_187: "40,200", 3_134_500: "3,130,000"} {
		if got := three(v); got != want {
			t.Errorf("%v to three digits: %s, want %s", v, got, want)
		}
	}
	tally := Tally{Asked: 1_000_000, Succeeded: 999_999}
	if got := tally.success(); got != "99.999 %" {
		t.Errorf("one of a million failed: %s", got)
	}
}

// What fails or cannot run is in the report, and does not keep the others from running.
func TestSuiteGoesOn(t *testing.T) {
	t.Parallel()
	report := NewReport(context.Background(), nil, "test", Target{URLs: []string{"http://127.0.0.1:9"}})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := Suite(ctx, SuiteConfig{CrowdConfig: CrowdConfig{Setup: Setup{Target: Target{URLs: []string{"http://127.0.0.1:9"}}, Binary: binary, Progress: testLog{t}}},
		Quick: true, Only: []string{"fanout", "sql", "presence", "llm", "mixed"}}, report)
	if err == nil || !strings.Contains(err.Error(), "fanout: ") || !strings.Contains(err.Error(), "mixed: ") {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"sql", "presence", "llm"} {
		if r := report.Result(name); r == nil || !strings.Contains(r.Skipped, "it needs a devstack") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, name := range []string{"fanout", "mixed"} {
		if r := report.Result(name); r == nil || r.Failed == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if err = Suite(ctx, SuiteConfig{Only: []string{"nothing"}}, report); err == nil {
		t.Error("an unknown benchmark ran")
	}
}

func TestReadReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	for text, bad := range map[string]bool{`{"format": 1}`: false, `{"format": 2}`: true, `{}`: true, `figures`: true} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReport(file); (err != nil) != bad {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWriteBetween(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	for text, want := range map[string]string{
		"a\n" + figuresBegin + "\nold\n" + figuresEnd + "\nb\n": "a\n" + figuresBegin + "\nnew\n" + figuresEnd + "\nb\n",
		"a\n": "", figuresEnd + figuresBegin: "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := WriteBetween(file, "new\n")
		b, _ := os.ReadFile(file) // an empty one fails below
		if want == "" && !errors.Is(err, errNoMarks) || want != "" && (err != nil || string(b) != want) {
			t.Errorf("%q: %v, %q", text, err, b)
		}
	}
}

// The README's figures are those of the report that is committed: with marks in the one there is the other.
func TestReadmeFigures(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, marked := strings.Cut(string(readme), figuresBegin+"\n")
	got, _, ended := strings.Cut(rest, figuresEnd)
	report, err := ReadReport("../../../docs/bench.json")
	if errors.Is(err, os.ErrNotExist) && !marked {
		t.Skip("no report is committed yet, and the README has no place for its figures")
	}
	if err != nil || !marked || !ended {
		t.Fatalf("marks in the README: %v, %v; the report: %v", marked, ended, err)
	}
	text, err := report.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	if got != text {
		t.Errorf("the figures are not those of docs/bench.json: make bench-table writes them\n%s", got)
	}
}

// A table that lacks a figure is not written, and it is told which.
func TestMarkdownTellsWhatIsMissing(t *testing.T) {
	_, err := exampleReport().Markdown()
	for _, want := range []string{"fanout, as fast as acknowledged, 64 publishers", "llm, mix mix", "mixed, everything at once, writers"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
