package bench

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var updateScaling = flag.Bool("update-scaling", false, "write the simulation's table in docs/scaling.md anew")

// scaleCosts are those that docs/scaling.md states.
var scaleCosts = scaleCost{Flush: time.Millisecond, Append: 30 * time.Microsecond, Notify: 2500 * time.Nanosecond, Hear: 3 * time.Microsecond, Deliver: 10 * time.Microsecond}

// An idle system waits for one commit and one delivery; one that is asked for more than it has says so; the more there is
// to do, the longer it takes.
func TestSimulate(t *testing.T) {
	t.Parallel()
	p := scalePlan{Costs: scaleCosts, Logs: 2, LogCores: 4, Replicas: 10, ReplicaCores: 2, Rate: 10, Audience: 10, Seconds: 60, Seed: 1, BatchMessages: 1000}
	idle := simulate(p)
	least := scaleCosts.Flush + scaleCosts.Append
	if idle.P50 < least || idle.P50 > least+100*time.Microsecond {
		t.Errorf("an idle system takes %v", idle.P50)
	}
	p.Rate, p.Seconds = 20_000, 5
	busy := simulate(p)
	if busy.P99 <= idle.P99 || busy.P50 <= idle.P50 || busy.Log <= idle.Log {
		t.Errorf("busy %+v, idle %+v", busy, idle)
	}
	p.Rate = 2 / scaleCosts.Append.Seconds()
	if over := simulate(p); over.Log < 1 || over.P50 != 0 {
		t.Errorf("more than two logs can append: %+v", over)
	}
	p.Logs = 4
	if more := simulate(p); more.Log >= 1 || more.P50 == 0 {
		t.Errorf("four logs can: %+v", more)
	}
	p.Rate, p.Audience = 1000, 1000*2/scaleCosts.Deliver.Seconds()
	if over := simulate(p); over.Replica < 1 {
		t.Errorf("more deliveries than replicas have time for: %+v", over)
	}
}

// The table in the documentation is what the simulation says.
func TestScalingTable(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../../../docs/scaling.md", "<!-- simulated -->\n", "<!-- end -->"
	var table strings.Builder
	table.WriteString("| replicas | connections | messages/s | each to | logs | log in use | replica in use | p50 | p99 |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range []struct {
		replicas int
		rate     float64
		audience float64
		logs     []int
	}{
		{100, 10_000, 10, []int{4}},
		{100, 40_000, 10, []int{2, 4, 8}},
		{1_000, 1_000, 1_000, []int{1, 4}},
		{1_000, 10_000, 10, []int{1, 4, 8, 16}},
		{1_000, 40_000, 10, []int{16, 32}},
	} {
		for _, logs := range c.logs {
			r := simulate(scalePlan{Costs: scaleCosts, Logs: logs, LogCores: 8, Replicas: c.replicas, ReplicaCores: 2, Rate: c.rate, Audience: c.audience,
				Seconds: 5, Seed: 1, BatchMessages: 1000})
			latency := "cannot keep up | |"
			if r.P50 > 0 {
				latency = fmt.Sprintf("%.1f ms | %.1f ms |", float64(r.P50.Microseconds())/1000, float64(r.P99.Microseconds())/1000)
			}
			fmt.Fprintf(&table, "| %d | %d | %.0f | %.0f | %d | %.0f %% | %.0f %% | %s\n", c.replicas, c.replicas*1000, c.rate, c.audience, logs, 100*r.Log, 100*r.Replica, latency)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	have, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("docs/scaling.md has no place for the table")
	}
	if *updateScaling {
		if err = os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != table.String() {
		t.Errorf("docs/scaling.md says\n%s, the simulation\n%s", have, table.String())
	}
}
