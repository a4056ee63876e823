package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// HTTPConfig says how HTTP measures.
type HTTPConfig struct {
	Duration time.Duration // of each step of a ramp, and of each turn at saturation
	Rounds   int           // of turns at saturation
	Users    int           // of the guide's suite
	Requests int           // of each of them
	Rows     int           // of one export
	Sketch   string        // a Python with the packages of the guide's sketch; "" to go without

	Setup
}

func (c *HTTPConfig) check() error {
	if c.Duration <= 0 || c.Rounds < 1 || c.Users < 1 || c.Requests < 1 || c.Rows < 1 {
		return errors.New("duration, rounds, users, requests and rows must be positive")
	}
	if c.Sketch != "" && c.Target.Given() {
		return errors.New("the sketch is measured beside a replica of our own, on the same servers: leave out --url, or --sketch")
	}
	return nil
}

// Names of what HTTP reports.
const (
	httpSaturated = "at saturation"
	httpBeside    = "beside a bare handler"
	httpRamp      = "at rising rates"
	httpSketch    = "beside the guide's sketch"
	httpSuiteName = "the guide's suite"
	bareHandler   = "bare"
	guideSketch   = "sketch"
	answered      = "answered"
	offered       = "offered"
)

// httpArm is what one side of a case did.
type httpArm struct {
	name  string
	side  httpSide
	peak  float64            // the highest rate that the ramp reached
	rates []float64          // at saturation, by round
	cpu   map[string]float64 // there, µs for one, by whose they are
}

// HTTP measures what a replica serves over HTTP, open loop, beside a bare handler that does the least that gives the
// same answer.
func HTTP(ctx context.Context, cfg HTTPConfig) (out *Result, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	sys, err := startHTTP(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.stop(ctx)) }()
	out = &Result{Bench: "http", What: "one replica, and a bare net/http and pgx handler as a process of its own, at rates that rise until the server takes no more",
		Notes: []string{fmt.Sprintf("One export has %s rows. CPU is of all servers for one request, PostgreSQL's included.", thousands(int64(cfg.Rows)))}}
	if sys.floor == nil {
		out.What, out.Notes = "a deployment, at rates that rise until it takes no more", nil
	}
	suite, err := measureSuite(ctx, cfg, sys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", httpSuiteName, err)
	}
	t := httpTables{&Table{Name: httpSaturated, What: "open loop, the sides taking turns"}, &Table{Name: httpBeside},
		&Table{Name: httpSketch, What: "FastAPI with 2 workers, uvloop, asyncpg and hiredis, on the same servers, in the same turns; its write is one INSERT"}}
	t.ratios.Charts = []Chart{{Title: "rate beside a bare handler", Kind: bars, Y: "rate"}}
	out.Tables = append(out.Tables, suite, t.saturation, t.ratios, t.sketch)
	for _, kind := range sys.kinds() {
		ramps, err := measureKind(ctx, cfg, sys, kind, t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		out.Tables = append(out.Tables, ramps)
	}
	out.Tables = slices.DeleteFunc(out.Tables, func(t *Table) bool { return len(t.Rows) == 0 })
	return out, nil
}

// httpTables are those to which each case adds its rows.
type httpTables struct{ saturation, ratios, sketch *Table }

// measureKind raises the rate until each side is saturated, and then lets them take turns there.
func measureKind(ctx context.Context, cfg HTTPConfig, sys *httpSystem, kind httpKind, t httpTables) (*Table, error) {
	arms := []*httpArm{{name: forgewire, side: kind.ours}}
	ramps := &Table{Name: kind.name + ", " + httpRamp, What: "open loop"}
	if sys.floor != nil {
		arms = append(arms, &httpArm{name: bareHandler, side: kind.floor})
		ramps.What += "; bare: " + kind.does
	}
	if kind.sketch.base != nil {
		arms = append(arms, &httpArm{name: guideSketch, side: kind.sketch})
	}
	ramps.Charts = []Chart{{Title: kind.name + ": p50 at rising rates", Kind: lines, X: offered, Y: answer + " p50", Log: true}, {Title: kind.name + ": p99 at rising rates", Kind: lines, X: offered, Y: answer + " p99", Log: true}}
	for _, a := range arms {
		fmt.Fprintf(cfg.Progress, "%s, %s: at rising rates\n", kind.name, a.name)
		steps, err := ramp(ctx, a.side, kind.start, cfg.Duration)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		for i, s := range steps {
			a.peak = max(a.peak, s.achieved)
			ramps.Rows = append(ramps.Rows, s.row(fmt.Sprintf("%s, step %d", a.name, i+1), a.name))
		}
	}
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "%s: at saturation, round %d of %d\n", kind.name, round+1, cfg.Rounds)
		for _, a := range arms {
			step, cpu, err := sys.saturate(ctx, a.side, a.peak, cfg.Duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.name, err)
			}
			a.rates = append(a.rates, step.achieved)
			a.addCPU(cpu, cfg.Rounds)
		}
	}
	t.add(kind, arms)
	return ramps, nil
}

// add enters what a case's sides did at saturation: ours, and beside it the bare handler and the sketch, where there are.
func (t httpTables) add(kind httpKind, arms []*httpArm) {
	for _, a := range arms {
		row := &Row{Name: kind.name + ", " + a.name, Figures: []Figure{more(answered, "/s", median(a.rates))}}
		if len(a.cpu) > 0 {
			row.Figures = append(row.Figures, less("CPU", "µs", a.serverCPU()))
		}
		if a.name == bareHandler {
			row.What = kind.does
		}
		t.saturation.Rows = append(t.saturation.Rows, row)
	}
	ours := arms[0]
	for _, a := range arms[1:] {
		if a.name == guideSketch {
			t.sketch.Rows = append(t.sketch.Rows, &Row{Name: kind.name, Figures: []Figure{plain(forgewire, "/s", median(ours.rates)), plain(guideSketch, "/s", median(a.rates)),
				more("times", "×", ours.beside(a)), more("1 / CPU", "×", ratio(a.serverCPU(), ours.serverCPU())), plain("wanted", "×", kind.least)}})
			continue
		}
		row := &Row{Name: kind.name, What: kind.does, Figures: []Figure{more("rate", "×", ours.beside(a)), more("1 / CPU", "×", ratio(a.serverCPU(), ours.serverCPU()))}}
		if kind.target > 0 {
			row.Figures = append(row.Figures, plain("rate wanted", "×", kind.target))
		}
		t.ratios.Rows = append(t.ratios.Rows, row)
	}
}

// beside is how many times another's rate ours is, of the same rounds.
func (a *httpArm) beside(other *httpArm) float64 {
	var each []float64
	for round, rate := range a.rates {
		each = append(each, ratio(rate, other.rates[round]))
	}
	return median(each)
}

func (a *httpArm) addCPU(each map[string]float64, rounds int) {
	if a.cpu == nil {
		a.cpu = map[string]float64{}
	}
	for who, us := range each {
		a.cpu[who] += us / float64(rounds)
	}
}

// serverCPU is what all but the generator took for one request.
func (a *httpArm) serverCPU() (sum float64) {
	for who, us := range a.cpu {
		if who != "generator" {
			sum += us
		}
	}
	return sum
}
