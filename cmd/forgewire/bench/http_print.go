package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes the report for people.
func (r *HTTPReport) Print(w io.Writer) error {
	valkey := "Valkey"
	if !r.Valkey {
		valkey = "no Valkey: none is installed"
	}
	fmt.Fprintf(w, "\nhttp: one replica, and a bare net/http and pgx handler, with PostgreSQL and %s, %d CPUs, which the generator shares; times in ms\n", valkey, r.CPUs)
	if err := r.printSuite(w); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	for _, c := range r.Cases {
		if err := c.printRamps(w); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if err := r.printSummary(w); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *HTTPReport) printSuite(w io.Writer) error {
	for _, s := range r.Suite {
		fmt.Fprintf(w, "\nThe guide's suite, %d users and %d requests, %s:\n", s.Users, s.Requests, s.Name)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "answered/s\t%s\n%.0f\t%s\n", timeNames, s.PerSecond, s.Time.cells())
		if err := t.Flush(); err != nil {
			return err //nolint:wrapcheck // Print says what was attempted
		}
		for _, a := range s.Asserts {
			fmt.Fprintf(w, "  %s: %s\n", a.What, verdict(a.Held))
		}
	}
	return nil
}

func verdict(held bool) string {
	if held {
		return "met"
	}
	return "MISSED"
}

const timeNames = "min\tmean\tp50\tp90\tp95\tp99\tmax\t"

func (t HTTPTime) cells() string {
	return fmt.Sprintf("%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t", t.Min, t.Mean, t.P50, t.P90, t.P95, t.P99, t.Max)
}

func (c *HTTPCase) printRamps(w io.Writer) error {
	fmt.Fprintf(w, "\n%s, open loop, at rising rates; bare: %s\n", c.Name, c.Floor)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\toffered/s\tanswered/s\tfailed\t%s\n", timeNames)
	for _, arm := range []struct {
		name string
		HTTPArm
	}{{"forgewire", c.OursArm}, {"bare", c.FloorArm}} {
		for _, s := range arm.Ramp {
			fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%d\t%s\n", arm.name, s.Offered, s.Achieved, s.Failed, s.Time.cells())
		}
	}
	return t.Flush() //nolint:wrapcheck // Print says what was attempted
}

func (r *HTTPReport) printSummary(w io.Writer) error {
	fmt.Fprint(w, "\nAt saturation, the sides taking turns (CPU: of the servers, PostgreSQL's included, for one request):\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tforgewire/s\tbare/s\tratio\ttarget\tCPU us\tbare us\tratio\t")
	for _, c := range r.Cases {
		target := ""
		if c.Target > 0 {
			target = fmt.Sprintf("%.1f %s", c.Target, verdict(c.Ratio >= c.Target))
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.2f\t%s\t%.0f\t%.0f\t%.2f\t\n", c.Name, c.OursArm.Rate, c.FloorArm.Rate, c.Ratio, target,
			c.OursArm.serverCPU(), c.FloorArm.serverCPU(), c.CPU)
	}
	if err := t.Flush(); err != nil {
		return err //nolint:wrapcheck // Print says what was attempted
	}
	for _, c := range r.Cases {
		fmt.Fprintf(w, "CPU time of one, %s: %s; bare: %s\n", c.Name, microseconds(c.OursArm.CPU), microseconds(c.FloorArm.CPU))
	}
	fmt.Fprintf(w, "One export has %d rows.\n", r.Rows)
	fmt.Fprint(w, "\nBeside the guide's sketch with 2 workers, which was measured on another machine, so that only the order of magnitude says anything:\n")
	for _, c := range r.Cases {
		if c.Sketch > 0 {
			fmt.Fprintf(w, "  %s: %.0f/s; the sketch %.0f/s: %.1f times (wanted: %.0f)\n", c.Name, c.OursArm.Rate, c.Sketch, c.Times, c.Least)
		}
	}
	return nil
}
