package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Thresholds say from when on a figure is worse. Runs on a machine that does other things too differ by a fifth.
type Thresholds struct {
	Worse   float64 // how many times slower, or dearer
	Tail    float64 // the same for p99, which differs more
	Success float64 // by how much the share of what succeeded may fall
}

// Comparison is what changed between two runs.
type Comparison struct {
	Changes  []Change
	Missing  []string // measured in the old run and not in the new one
	Warnings []string // why the two may not be comparable
	Worse    int      // of the changes, and what is missing
}

// Change is one figure in both runs.
type Change struct {
	Where    string // benchmark, table and row
	What     string // figure and unit
	Old, New float64
	Ratio    float64 // new by old; 0: there is none
	Verdict  string  // "", "better" or "worse"
}

// Compare compares all that has a better and a worse.
func Compare(before, after *Report, limits Thresholds) *Comparison {
	c := &Comparison{}
	c.warn("machine", fmt.Sprintf("%d × %s", before.Machine.Cores, before.Machine.CPU), fmt.Sprintf("%d × %s", after.Machine.Cores, after.Machine.CPU))
	c.warn("PostgreSQL", before.Machine.Postgres, after.Machine.Postgres)
	c.warn("Valkey", before.Machine.Valkey, after.Machine.Valkey)
	c.warn("deployment", before.Target, after.Target)
	for _, old := range before.Results {
		now := after.Result(old.Bench)
		if now == nil || len(now.Tables) == 0 && len(old.Tables) > 0 {
			c.missing(old.Bench)
			continue
		}
		if now.What != old.What {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s was done differently: %q and now %q", old.Bench, old.What, now.What))
		}
		for _, t := range old.Tables {
			other := now.table(t.Name)
			for _, r := range t.Rows {
				where := old.Bench + ", " + t.Name + ", " + r.Name
				switch {
				case t.Drawn, strings.HasSuffix(t.Name, httpRamp): // at saturation is where the rates are told
				case other == nil || other.row(r.Name) == nil:
					c.missing(where)
				default:
					c.rows(where, r, other.row(r.Name), limits)
				}
			}
		}
	}
	return c
}

func (c *Comparison) warn(what, before, after string) {
	if before != after {
		c.Warnings = append(c.Warnings, fmt.Sprintf("another %s: %s and now %s", what, before, after))
	}
}

func (c *Comparison) missing(what string) {
	c.Missing, c.Worse = append(c.Missing, what), c.Worse+1
}

func (c *Comparison) rows(where string, before, after *Row, limits Thresholds) {
	for _, f := range before.Figures {
		if g := after.figure(f.Name); g != nil && f.Better != "" {
			c.figure(where, unitAfter(f.Name, f.Unit), f.Value, g.Value, f.Better == More, limits.Worse)
		}
	}
	for _, t := range before.Times {
		if u := after.times(t.Name); u != nil && t.Count > 0 && u.Count > 0 {
			c.figure(where, t.Name+" p50, ms", t.P50, u.P50, false, limits.Worse)
			c.figure(where, t.Name+" p99, ms", t.P99, u.P99, false, limits.Tail)
		}
	}
	if before.Tally != nil && after.Tally != nil {
		a := Change{Where: where, What: "success", Old: before.Tally.Success(), New: after.Tally.Success()}
		if a.Ratio = ratio(a.New, a.Old); a.New < a.Old-limits.Success {
			a.Verdict = "worse"
			c.Worse++
		}
		c.Changes = append(c.Changes, a)
	}
}

// figure judges one. A difference that is not positive has no ratio.
func (c *Comparison) figure(where, what string, before, after float64, more bool, limit float64) {
	a := Change{Where: where, What: what, Old: before, New: after}
	if before > 0 && after > 0 {
		a.Ratio = digits5(after / before)
		good := a.Ratio
		if !more {
			good = 1 / a.Ratio
		}
		switch {
		case good*limit < 1:
			a.Verdict = "worse"
			c.Worse++
		case good > limit:
			a.Verdict = "better"
		}
	}
	c.Changes = append(c.Changes, a)
}

// Print writes what changed beyond the thresholds, or everything.
func (c *Comparison) Print(w io.Writer, everything bool) error {
	for _, text := range c.Warnings {
		fmt.Fprintln(w, "note:", text)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "where\twhat\told\tnew\tnew / old\t\t")
	better := 0
	for _, a := range c.Changes {
		if a.Verdict == "better" {
			better++
		}
		if everything || a.Verdict != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t%s\t\n", a.Where, a.What, Number(a.Old), Number(a.New), a.Ratio, a.Verdict)
		}
	}
	for _, name := range c.Missing {
		fmt.Fprintf(t, "%s\t\t\t\t\tmissing\t\n", name)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	fmt.Fprintf(w, "%d figures compared: %d better, %d worse or missing\n", len(c.Changes), better, c.Worse)
	return nil
}
