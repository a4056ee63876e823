package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"time"
)

// reportFormat is raised when a reader of an older report would misread a new one.
const reportFormat = 1

// Report is one run: what was measured, on what, by which command.
type Report struct {
	Format  int       `json:"format"`
	Command string    `json:"command"` // without what is secret
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Target  string    `json:"target"` // the deployment's URL, or that it was one of our own
	Machine Machine   `json:"machine"`
	Results []*Result `json:"results"`
}

// NewReport begins a report of this machine. Args are the command's.
func NewReport(ctx context.Context, args []string, version string, t Target) *Report {
	return &Report{Format: reportFormat, Command: Command(args), Started: time.Now().UTC().Truncate(time.Second), Target: t.String(), Machine: DescribeMachine(ctx, version)}
}

// Add adds a result, and how long it took since the last one.
func (r *Report) Add(result *Result) {
	whole := time.Since(r.Started).Seconds()
	result.Seconds = digits5(whole - r.Seconds)
	r.Seconds = digits5(whole)
	r.Results = append(r.Results, result)
}

// Result is what one benchmark found: every benchmark returns one, and every printer reads it.
type Result struct {
	Bench   string   `json:"bench"`
	What    string   `json:"what"`
	Seconds float64  `json:"seconds"`
	Skipped string   `json:"skipped,omitempty"` // why it did not run
	Failed  string   `json:"failed,omitempty"`  // what it ended with
	Tables  []*Table `json:"tables,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

// Table is measurements that belong beside each other.
type Table struct {
	Name   string  `json:"name"` // no other one of the result has it
	What   string  `json:"what,omitempty"`
	Rows   []*Row  `json:"rows"`
	Charts []Chart `json:"charts,omitempty"`
	Drawn  bool    `json:"drawn,omitempty"` // only: too many rows to read
}

// Row is one measurement.
type Row struct {
	Name    string   `json:"name"`             // no other one of the table has it
	Series  string   `json:"series,omitempty"` // rows of one series are one line of a chart
	What    string   `json:"what,omitempty"`
	Figures []Figure `json:"figures,omitempty"`
	Times   []Times  `json:"times,omitempty"`
	Tally   *Tally   `json:"tally,omitempty"`
}

// Directions in which a figure may be better. A comparison judges no figure without one.
const (
	More = "more"
	Less = "less"
)

// Figure is a number and what it is of.
type Figure struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit,omitempty"`
	Value  float64 `json:"value"`
	Better string  `json:"better,omitempty"`
}

// Times is a distribution, in milliseconds, from an HDR histogram with three digits.
type Times struct {
	Name  string  `json:"name"` // from what to what
	Count int64   `json:"count"`
	Min   float64 `json:"min_ms"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P75   float64 `json:"p75_ms"`
	P90   float64 `json:"p90_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	P9999 float64 `json:"p9999_ms"`
	Max   float64 `json:"max_ms"`
}

// Tally is how things ended.
type Tally struct {
	Asked     int            `json:"asked"`
	Succeeded int            `json:"succeeded"`
	Errors    map[string]int `json:"errors,omitempty"` // by kind
}

// Success is the share that went well.
func (t *Tally) Success() float64 { return ratio(float64(t.Succeeded), float64(t.Asked)) }

// fail counts one that did not.
func (t *Tally) fail(kind string, n int) {
	if t.Errors == nil {
		t.Errors = map[string]int{}
	}
	t.Errors[kind] += n
	t.Asked += n
}

func (t *Tally) ok(n int) { t.Asked, t.Succeeded = t.Asked+n, t.Succeeded+n }

func (t *Tally) add(other *Tally) {
	t.ok(other.Succeeded)
	for kind, n := range other.Errors {
		t.fail(kind, n)
	}
}

// Chart says how a table is drawn.
type Chart struct {
	Title string `json:"title"`
	Kind  string `json:"kind"`        // bars, lines, or percentiles
	X     string `json:"x,omitempty"` // the figure along the axis of lines
	Y     string `json:"y"`           // a figure's name, or a distribution's with " p50", " p99" or " max" after it
	Log   bool   `json:"log,omitempty"`
}

// Kinds of charts.
const (
	bars        = "bars"
	lines       = "lines"
	percentiles = "percentiles"
)

func more(name, unit string, v float64) Figure {
	return Figure{Name: name, Unit: unit, Value: digits5(v), Better: More}
}

func less(name, unit string, v float64) Figure {
	return Figure{Name: name, Unit: unit, Value: digits5(v), Better: Less}
}

func plain(name, unit string, v float64) Figure {
	return Figure{Name: name, Unit: unit, Value: digits5(v)}
}

// digits5 keeps five digits: more of them mean nothing.
func digits5(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// figure returns the figure of that name, or nil.
func (r *Row) figure(name string) *Figure {
	for i := range r.Figures {
		if r.Figures[i].Name == name {
			return &r.Figures[i]
		}
	}
	return nil
}

// times returns the distribution of that name, or nil.
func (r *Row) times(name string) *Times {
	for i := range r.Times {
		if r.Times[i].Name == name {
			return &r.Times[i]
		}
	}
	return nil
}

func (t *Table) row(name string) *Row {
	for _, r := range t.Rows {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (r *Result) table(name string) *Table {
	for _, t := range r.Tables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Result returns that of a benchmark, or nil.
func (r *Report) Result(bench string) *Result {
	for _, one := range r.Results {
		if one.Bench == bench {
			return one
		}
	}
	return nil
}

// cpuFigures are what everybody took for each thing, in microseconds. What the generator takes is not judged.
func cpuFigures(each map[string]float64) (figures []Figure) {
	for _, name := range slices.Sorted(maps.Keys(each)) {
		f := less("CPU "+name, "µs", each[name])
		if name == "generator" || name == "loaders" {
			f.Better = ""
		}
		figures = append(figures, f)
	}
	return figures
}

// beside divides what ours and theirs both have and a comparison judges.
func beside(name string, ours, theirs *Row) *Row {
	out := &Row{Name: name}
	for _, f := range ours.Figures {
		if other := theirs.figure(f.Name); other != nil && f.Better != "" && other.Value != 0 {
			out.Figures = append(out.Figures, Figure{Name: f.Name, Unit: "×", Value: digits5(f.Value / other.Value), Better: f.Better})
		}
	}
	for _, t := range ours.Times {
		if other := theirs.times(t.Name); other != nil && other.P50 > 0 {
			out.Figures = append(out.Figures, less(t.Name+" p50", "×", t.P50/other.P50), plain(t.Name+" p99", "×", ratio(t.P99, other.P99)))
		}
	}
	return out
}

// ReadReport reads what WriteJSON wrote.
func ReadReport(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	r := &Report{}
	if err = json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read the report in %s: %w", file, err)
	}
	if r.Format != reportFormat {
		return nil, fmt.Errorf("read the report in %s: %w %d", file, errFormat, r.Format)
	}
	return r, nil
}

var errFormat = errors.New("this version does not know its format")

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err = os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
