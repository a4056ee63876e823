package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"forgewire/cmd/forgewire/bench"
)

type benchAll struct {
	benchTarget
	benchOutput
	benchPeer

	Quick bool     `help:"Small and short, two minutes in all: whether it works, not how well."`
	Only  []string `help:"Some of them: fanout, sql, connections, broadcast, resume, presence, llm, http, mixed."`
	HTML  string   `name:"html" type:"path" placeholder:"FILE" help:"Write the report there, for a browser: one file, with charts."`
}

func (benchAll) Help() string {
	return "A quarter of an hour. Each benchmark starts servers of its own, unless --url is given: then those that can run against a " +
		"deployment do, and the others say why not. What fails or is left out is in the report, too."
}

func (c *benchAll) Run(ctx context.Context) error {
	setup, err := c.setup()
	if err != nil {
		return err
	}
	peer := ""
	if !setup.Target.Given() {
		program, remove, err := c.find(ctx)
		if err != nil {
			return err
		}
		defer remove()
		peer = program
	}
	report := bench.NewReport(ctx, os.Args[1:], version, setup.Target)
	failed := bench.Suite(ctx, bench.SuiteConfig{CrowdConfig: bench.CrowdConfig{Setup: setup, Peer: peer}, Quick: c.Quick, Only: c.Only}, report)
	if len(report.Results) == 0 {
		return failed
	}
	err = c.write(report, os.Stdout)
	if c.HTML != "" {
		err = errors.Join(err, report.WriteHTML(c.HTML))
	}
	return errors.Join(failed, err)
}

type benchCompare struct {
	Old string `arg:"" type:"existingfile" help:"A report of --json."`
	New string `arg:"" type:"existingfile" help:"A later one."`

	Worse   float64 `default:"1.25" help:"How many times slower or dearer is worse."`
	Tail    float64 `default:"2" help:"The same for the 99th percentile."`
	Success float64 `default:"0.001" help:"By how much the share of what succeeds may fall."`
	All     bool    `help:"Show also what changed less."`
}

func (benchCompare) Help() string {
	return "Exit codes: 0 nothing is worse; 3 something is worse than the thresholds, or was measured before and is missing; 1 a report cannot be read."
}

// errWorse says that a run is worse than the one before. It has an exit code of its own.
var errWorse = errors.New("the new run is worse")

func (c *benchCompare) Run() error {
	before, err := bench.ReadReport(c.Old)
	if err != nil {
		return err
	}
	after, err := bench.ReadReport(c.New)
	if err != nil {
		return err
	}
	found := bench.Compare(before, after, bench.Thresholds{Worse: c.Worse, Tail: c.Tail, Success: c.Success})
	if err = found.Print(os.Stdout, c.All); err != nil {
		return err
	}
	if found.Worse > 0 {
		return fmt.Errorf("%w: %d figures, see above", errWorse, found.Worse)
	}
	return nil
}

type benchTable struct {
	Report string `arg:"" type:"existingfile" help:"A report of --json."`
	Write  string `type:"existingfile" placeholder:"FILE" help:"Write the table between the marks of this document, in place of showing it."`
}

func (c *benchTable) Run() error {
	report, err := bench.ReadReport(c.Report)
	if err != nil {
		return err
	}
	text, err := report.Markdown()
	if err != nil {
		return err
	}
	if c.Write != "" {
		return bench.WriteBetween(c.Write, text)
	}
	_, err = os.Stdout.WriteString(text)
	return err
}

type benchReport struct {
	Report string `arg:"" type:"existingfile" help:"A report of --json."`
	HTML   string `arg:"" name:"html" type:"path" help:"Where to write it."`
}

func (c *benchReport) Run() error {
	report, err := bench.ReadReport(c.Report)
	if err != nil {
		return err
	}
	return report.WriteHTML(c.HTML)
}
