package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// chaosReport is what a run did, as a page for people. It is written anew after each fault, so that it tells how far
// a run has come.
type chaosReport struct {
	w          *chaos
	impossible []string
	path       string
	begin      time.Time
	faults     int
	pairs      int
	took       map[string][]time.Duration // by kind
	ended      bool                       // and nothing was wrong
}

func newChaosReport(w *chaos, d *deck) *chaosReport {
	r := &chaosReport{w: w, impossible: d.impossible, path: os.Getenv("FORGEWIRE_CHAOS_REPORT"), begin: time.Now(), took: map[string][]time.Duration{}}
	for _, f := range d.all {
		r.took[f.kind] = nil
	}
	return r
}

// add notes faults that came at once and how long it took until all worked again.
func (r *chaosReport) add(kinds []string, took time.Duration) {
	r.faults += len(kinds)
	if len(kinds) > 1 {
		r.pairs++
	}
	for _, kind := range kinds {
		r.took[kind] = append(r.took[kind], took)
	}
	r.w.t.Logf("%5d s: all works again after %v", int(time.Since(r.begin).Seconds()), took.Round(10*time.Millisecond))
	r.write()
}

// begins tells what comes, also if it never ends.
func (r *chaosReport) begins(kinds []string) {
	r.w.t.Logf("%5d s: %s", int(time.Since(r.begin).Seconds()), strings.Join(kinds, " and "))
}

// counts are what the load did, as one line each.
func (r *chaosReport) counts() string {
	t := &r.w.tally
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "- "+format+"\n", args...) }
	line("%d messages published over HTTP, and %d publishes that got an error or no answer (%d tries again with the same key)", t.published.Load(), t.publishFailed.Load(), t.retried.Load())
	line("%d orders committed with their messages, each in the log if and only if its row is in the table", t.inserted.Load())
	line("%d sightings of messages compared with the log; %d times a subscriber was told that something is missing, each after commits were lost on purpose; %d acknowledged messages went with those", t.checked.Load(), t.tellings.Load(), t.gone.Load())
	line("%d whole answers of the model (%d hits, %d streamed, %d of them gone on with on another replica), %d errors", t.answered.Load(), t.hits.Load(), t.streamed.Load(), t.resumed.Load(), t.answerFailed.Load())
	line("%d writes acknowledged, %d tries that were not, %d versions compared, %d reads", t.written.Load(), t.writeFailed.Load(), t.versions.Load(), t.read.Load())
	line("%d intrusions refused (%d met what was broken)", t.refused.Load(), t.intruderFailed.Load())
	if a := r.w.accidents; a != nil {
		line("%d writes and flushes of PostgreSQL failed for a disk that was full or broken", a.get(r.w.t, refusals))
	}
	return b.String()
}

func (r *chaosReport) write() {
	if r.path == "" {
		return
	}
	var b strings.Builder
	state := "It has not ended, or not well."
	if r.ended {
		state = "Nothing was wrong."
	}
	fmt.Fprintf(&b, "### Seed %d, %v\n\n%d faults, %d times two at once; %d kinds. %s\n\n", r.w.seed, time.Since(r.begin).Round(time.Second), r.faults, r.pairs, len(r.took), state)
	b.WriteString(r.counts())
	b.WriteString("\n| fault | times | all worked again after: median | at most |\n|---|---|---|---|\n")
	kinds := []string{}
	for kind := range r.took {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		took := slices.Sorted(slices.Values(r.took[kind]))
		if len(took) == 0 {
			fmt.Fprintf(&b, "| %s | 0 | | |\n", kind)
			continue
		}
		fmt.Fprintf(&b, "| %s | %d | %.1f s | %.1f s |\n", kind, len(took), took[len(took)/2].Seconds(), took[len(took)-1].Seconds())
	}
	for _, kind := range r.impossible {
		fmt.Fprintf(&b, "| %s | not possible on this machine | | |\n", kind)
	}
	for _, wrong := range r.w.findings() {
		fmt.Fprintf(&b, "\nWrong: %s\n", wrong)
	}
	if err := os.WriteFile(r.path, []byte(b.String()), 0o644); err != nil {
		r.w.t.Error(err)
	}
}
