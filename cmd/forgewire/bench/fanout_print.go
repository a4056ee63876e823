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
func (r *FanoutReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nfanout: %d replicas, %d subscribers, %d channels, %d bytes a message, %.3g s each, %d CPUs\n",
		r.Replicas, r.Subscribers, r.Channels, r.Size, r.Seconds, r.CPUs)
	fmt.Fprintln(w, "publish: over HTTP until acknowledged; receive: from before the publish until a WebSocket has it; in ms")
	fmt.Fprint(w, "floor: the same appends and NOTIFYs without HTTP and WebSocket\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "publishers\t\tacked/s\tdelivered/s\tpublish p50\tp99\treceive p50\tp90\tp99\tmax\tchecked\tnot acked\t")
	for _, run := range r.Runs {
		if run.Floor != nil {
			fmt.Fprintf(t, "%d\tfloor\t%s\n", run.Publishers, run.Floor.cells())
		}
		fmt.Fprintf(t, "%d\twhole\t%s\n", run.Publishers, run.Whole.cells())
		if run.Floor != nil {
			fmt.Fprintf(t, "\tratio\t%.2f\t\t\t\t%.2f\t\t\t\t\t\t\n", run.RateRatio, run.P50Ratio)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	fmt.Fprintln(w)
	for _, run := range r.Runs {
		if cpu := run.Whole.cores(); cpu != "" {
			fmt.Fprintf(w, "CPU cores in use with %d publishers: %s\n", run.Publishers, cpu)
		}
	}
	if r.Idle != nil {
		fmt.Fprintf(w, "CPU of an idle replica over %.3g s:", r.Idle.Seconds)
		for _, c := range r.Idle.Cores {
			fmt.Fprintf(w, " %.3f %%", 100*c)
		}
		fmt.Fprintf(w, " of a core; of PostgreSQL: %.3f %%\n", 100*r.Idle.Postgres)
	}
	fmt.Fprintln(w, "Every acknowledged message came to every subscriber, once and in order.")
	return nil
}

// cells are the columns of Print.
func (r *Result) cells() string {
	return fmt.Sprintf("%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t%d\t", r.PublishRate, r.DeliveryRate,
		r.Publish.P50, r.Publish.P99, r.Receive.P50, r.Receive.P90, r.Receive.P99, r.Receive.Max, r.Checked, r.Refused)
}

func (r *Result) cores() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
		parts = append(parts, fmt.Sprintf("%s %.2f (%.0f µs a publish)", name, r.CPU[name], 1e6*ratio(r.CPU[name], r.PublishRate)))
	}
	return strings.Join(parts, ", ")
}
