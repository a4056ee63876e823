package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes the report for people.
func (r *LLMReport) Print(w io.Writer) error {
	where := "PostgreSQL and Valkey"
	if !r.Valkey {
		where = "PostgreSQL, and no Valkey: none is installed"
	}
	fmt.Fprintf(w, "\nllm: %d replicas with %s before a fake model, %d CPUs; times in ms\n", r.Replicas, where, r.CPUs)
	for _, part := range []func(io.Writer) error{r.printSingle, r.printLoad, r.printStreams, r.printMixes} {
		if err := part(w); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	fmt.Fprintln(w, "Every answer was whole, and to what was asked.")
	return nil
}

func (r *LLMReport) printSingle(w io.Writer) error {
	fmt.Fprint(w, "\nOne request at a time, from sending it until the whole answer is there:\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tp50\tp90\tp99\tmax\tsamples\t")
	byName := map[string]Latency{}
	for _, c := range r.Single {
		byName[c.Name] = c.Time
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", c.Name, cells(c.Time), c.Samples, c.What)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	trivial, upstream, miss, hit := byName["trivial"], byName["upstream"], byName["miss"], byName["hit, local"]
	fmt.Fprintf(w, "A miss adds %.2f at p50 and %.2f at p99 to the upstream; a local hit takes %.2f at p50 beyond the smallest route.\n",
		miss.P50-upstream.P50, miss.P99-upstream.P99, hit.P50-trivial.P50)
	return nil
}

func cells(l Latency) string {
	return fmt.Sprintf("%.2f\t%.2f\t%.2f\t%.2f", l.P50, l.P90, l.P99, l.Max)
}

func (r *LLMReport) printLoad(w io.Writer) error {
	if r.Load == nil {
		return nil
	}
	fmt.Fprintf(w, "\n%d misses a second, open loop, %.3g s each, from when a request is due:\n", r.Load.Rate, r.Load.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tp50\tp90\tp99\tmax\nupstream\t%s\nmiss\t%s\n", cells(r.Load.Upstream), cells(r.Load.Miss))
	fmt.Fprintf(t, "added\t%.2f\t\t%.2f\t\n", r.Load.AddedP50, r.Load.AddedP99)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "CPU time a miss: %s\n", microseconds(r.Load.CPU))
	return nil
}

func (r *LLMReport) printStreams(w io.Writer) error {
	if r.Streams == nil {
		return nil
	}
	s := r.Streams
	fmt.Fprintf(w, "\n%d streams at once, %.3g tokens a second each, from when the model sends a token until the client has it:\n", s.Streams, s.PerSec)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tp50\tp90\tp99\tmax\ttokens")
	fmt.Fprintf(t, "upstream\t%s\t%d\n", cells(s.Direct.All), s.Direct.Count)
	fmt.Fprintf(t, "through Forgewire\t%s\t%d\n", cells(s.Ours.All), s.Ours.Count)
	fmt.Fprintf(t, "few streams, first token, upstream\t%s\t\n", cells(s.One.First))
	fmt.Fprintf(t, "few streams, first token, through Forgewire\t%s\t\n", cells(s.OneOurs.First))
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "CPU time a token, through Forgewire: %s\n", microseconds(s.Ours.CPU))
	return nil
}

// microseconds lists CPU times.
func microseconds(cpu map[string]float64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(cpu)) {
		parts = append(parts, fmt.Sprintf("%s %.0f µs", name, cpu[name]))
	}
	return strings.Join(parts, ", ")
}

func (r *LLMReport) printMixes(w io.Writer) error {
	for _, m := range r.Mixes {
		fmt.Fprintf(w, "\nMix %q, seed %d: %d requests in %v\n", m.Mix.Name, m.Seed, m.Requests, m.Mix.Duration)
		for _, p := range m.Mix.Parts {
			fmt.Fprintf(w, "  %3.0f %% %s\n", 100*p.Share, p)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\thit\tjoined\tstale\thit or joined\tmodel calls\tmean wait\tfirst token\twait cut by")
		for _, a := range []struct {
			name string
			Arm
		}{{"no cache", m.NoCache}, {"naive", m.Naive}, {"Forgewire", m.Ours}} {
			fmt.Fprintf(t, "%s\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f %%\t%d\t%.0f\t%.0f\t%.1f %%\n", a.name,
				100*a.Hit, 100*a.Joined, 100*a.Stale, 100*a.Saved(), a.Calls, a.MeanWait, a.FirstToken, 100*a.Cut)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(w, "Why: %s.\n", m.Mix.Why)
	}
	fmt.Fprintln(w)
	return nil
}

// String describes the part in a line.
func (p MixPart) String() string {
	s := fmt.Sprintf("%s (model %s", p.What, p.Model)
	switch {
	case p.Skew > 1:
		s += fmt.Sprintf(", %d prompts by Zipf's law with %.3g", p.Prompts, p.Skew)
	case p.Prompts > 0:
		s += fmt.Sprintf(", %d prompts", p.Prompts)
	case p.Burst == 0:
		s += ", each unique"
	}
	if p.Streamed > 0 {
		s += fmt.Sprintf(", %.0f %% streamed", 100*p.Streamed)
	}
	if p.Users > 0 {
		s += ", a third name their user"
	}
	return s + ")"
}
