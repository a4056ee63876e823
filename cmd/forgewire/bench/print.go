package bench

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes the report for people, as text.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n%s\n", r.Command, r.Machine)
	for _, one := range r.Results {
		if err := one.Print(w); err != nil {
			return err
		}
	}
	return nil
}

// Print writes one benchmark's result.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s: %s\n", r.Bench, r.What)
	if r.Skipped != "" {
		fmt.Fprintf(w, "  left out: %s\n", r.Skipped)
	}
	if r.Failed != "" {
		fmt.Fprintf(w, "  FAILED: %s\n", r.Failed)
	}
	for _, t := range r.Tables {
		if t.Drawn {
			continue
		}
		fmt.Fprintf(w, "\n%s%s\n", t.Name, colon(t.What))
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		head, body := t.cells()
		fmt.Fprintf(out, "%s\t\n", strings.Join(head, "\t"))
		for _, cells := range body {
			fmt.Fprintf(out, "%s\t\n", strings.Join(cells, "\t"))
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	return nil
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// shown are the columns of a distribution; the JSON has more.
var shown = []struct {
	name string
	of   func(*Times) float64
}{
	{"p50", func(t *Times) float64 { return t.P50 }}, {"p90", func(t *Times) float64 { return t.P90 }},
	{"p99", func(t *Times) float64 { return t.P99 }}, {"max", func(t *Times) float64 { return t.Max }},
}

// cells is the table as text: a heading, and the rows, the first column of which is their names.
func (t *Table) cells() (head []string, body [][]string) {
	type column struct {
		head string
		cell func(*Row) string
	}
	columns := []column{{"", func(r *Row) string { return r.Name }}}
	seen := map[string]bool{}
	first := func(kind, name string) bool { defer func() { seen[kind+name] = true }(); return !seen[kind+name] }
	for _, r := range t.Rows {
		for _, f := range r.Figures {
			if first("figure ", f.Name) {
				columns = append(columns, column{unitAfter(f.Name, f.Unit), func(r *Row) string {
					if f := r.figure(f.Name); f != nil {
						return Number(f.Value)
					}
					return ""
				}})
			}
		}
	}
	for _, r := range t.Rows {
		for _, d := range r.Times {
			if !first("times ", d.Name) {
				continue
			}
			for _, s := range shown {
				columns = append(columns, column{d.Name + " " + s.name + ", ms", func(r *Row) string {
					if d := r.times(d.Name); d != nil {
						return Number(s.of(d))
					}
					return ""
				}})
			}
		}
	}
	if slices.ContainsFunc(t.Rows, func(r *Row) bool { return r.Tally != nil }) {
		columns = append(columns, column{"success", func(r *Row) string { return r.Tally.success() }}, column{"errors", func(r *Row) string { return r.Tally.kinds() }})
	}
	for _, c := range columns {
		head = append(head, c.head)
	}
	for _, r := range t.Rows {
		var cells []string
		for _, c := range columns {
			cells = append(cells, c.cell(r))
		}
		body = append(body, cells)
	}
	return head, body
}

func unitAfter(name, unit string) string {
	if unit == "" || unit == "×" {
		return name
	}
	return name + ", " + unit
}

// success never rounds up to everything.
func (t *Tally) success() string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%.5g %%", math.Floor(1e5*t.Success())/1e3)
}

// kinds lists the errors.
func (t *Tally) kinds() string {
	if t == nil || len(t.Errors) == 0 {
		return ""
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(t.Errors)) {
		parts = append(parts, fmt.Sprintf("%d %s", t.Errors[kind], kind))
	}
	return strings.Join(parts, "; ")
}

// Number is a figure with about three digits.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 999.5:
		return thousands(int64(math.Round(v)))
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.0095:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// thousands groups digits.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	from := 0
	if n < 0 {
		from = 1
	}
	for i := len(s) - 3; i > from; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
