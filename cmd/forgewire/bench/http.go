package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// HTTPConfig says how HTTP measures.
type HTTPConfig struct {
	Duration time.Duration // of each step of a ramp, and of each turn at saturation
	Rounds   int           // of turns at saturation
	Users    int           // of the guide's suite
	Requests int           // of each of them
	Rows     int           // of one export

	Binary   string    // forgewire, for the replica and the floor
	Environ  []string  // of which both get the variables of the Go runtime
	Progress io.Writer // gets a line for each step
}

func (c *HTTPConfig) check() error {
	if c.Duration <= 0 || c.Rounds < 1 || c.Users < 1 || c.Requests < 1 || c.Rows < 1 {
		return errors.New("duration, rounds, users, requests and rows must be positive")
	}
	return nil
}

// HTTPReport is what HTTP found.
type HTTPReport struct {
	CPUs   int         `json:"cpus"`
	Valkey bool        `json:"valkey"`
	Rows   int         `json:"rows_of_an_export"`
	Suite  []SuiteRun  `json:"suite"`
	Cases  []*HTTPCase `json:"cases"`
}

// HTTPCase is one kind of request, asked of a replica and of its floor.
type HTTPCase struct {
	Name   string  `json:"name"`
	Floor  string  `json:"floor"`                    // what the floor does
	Target float64 `json:"target,omitempty"`         // of Ratio; 0 for none
	Sketch float64 `json:"sketch_per_s,omitempty"`   // what the user guide's sketch did on another machine, with 2 workers; 0: not measured
	Least  float64 `json:"least_times_the_sketch"`   // that we want to be; 0 for none
	Times  float64 `json:"times_the_sketch"`         // that we were here
	Ratio  float64 `json:"rate_beside_floor"`        // at saturation: the median of the rounds
	CPU    float64 `json:"cpu_of_floor_beside_ours"` // 1 over how often the floor's CPU time a request took here: what a busy machine changes least

	OursArm  HTTPArm `json:"forgewire"`
	FloorArm HTTPArm `json:"bare"`
}

// HTTPArm is what one side of a case did.
type HTTPArm struct {
	Ramp []HTTPStep         `json:"ramp"`
	Rate float64            `json:"saturated_per_s"`       // the median of the rounds
	CPU  map[string]float64 `json:"cpu_us_each,omitempty"` // at saturation, by whose they are
}

// HTTP measures what a replica serves over HTTP, open loop, beside a bare handler that does the least that gives the
// same answer.
func HTTP(ctx context.Context, cfg HTTPConfig) (report *HTTPReport, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	fmt.Fprintln(cfg.Progress, "starting a private PostgreSQL, Valkey, a replica and the floor")
	sys, err := startHTTP(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.stop(ctx)) }()
	report = &HTTPReport{CPUs: runtime.NumCPU(), Valkey: sys.valkey, Rows: cfg.Rows}
	if report.Suite, err = measureSuite(ctx, cfg, sys); err != nil {
		return nil, fmt.Errorf("the guide's suite: %w", err)
	}
	for _, kind := range sys.kinds() {
		c, err := measureKind(ctx, cfg, sys, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		report.Cases = append(report.Cases, c)
	}
	return report, nil
}

// measureKind raises the rate until each side is saturated, and then lets them take turns there.
func measureKind(ctx context.Context, cfg HTTPConfig, sys *httpSystem, kind httpKind) (*HTTPCase, error) {
	out := &HTTPCase{Name: kind.name, Floor: kind.does, Target: kind.target, Sketch: kind.sketch, Least: kind.least}
	arms := []struct {
		name string
		side httpSide
		arm  *HTTPArm
	}{{"forgewire", kind.ours, &out.OursArm}, {"bare", kind.floor, &out.FloorArm}}
	peaks, rates := make([]float64, len(arms)), make([][]float64, len(arms))
	for i, a := range arms {
		fmt.Fprintf(cfg.Progress, "%s, %s: at rising rates\n", kind.name, a.name)
		var err error
		if a.arm.Ramp, peaks[i], err = ramp(ctx, a.side, kind.start, cfg.Duration); err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
	}
	var ratios []float64
	for round := range cfg.Rounds {
		fmt.Fprintf(cfg.Progress, "%s: both at saturation, round %d of %d\n", kind.name, round+1, cfg.Rounds)
		for i, a := range arms {
			step, cpu, err := sys.saturate(ctx, a.side, peaks[i], cfg.Duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", a.name, err)
			}
			rates[i] = append(rates[i], step.Achieved)
			a.arm.addCPU(cpu, cfg.Rounds)
		}
		ratios = append(ratios, ratio(rates[0][round], rates[1][round]))
	}
	for i, a := range arms {
		a.arm.Rate = median(rates[i])
	}
	out.Ratio, out.CPU = median(ratios), ratio(out.FloorArm.serverCPU(), out.OursArm.serverCPU())
	out.Times = ratio(out.OursArm.Rate, out.Sketch)
	return out, nil
}

func (a *HTTPArm) addCPU(each map[string]float64, rounds int) {
	if a.CPU == nil {
		a.CPU = map[string]float64{}
	}
	for who, us := range each {
		a.CPU[who] += us / float64(rounds)
	}
}

// serverCPU is what all but the generator took for one request.
func (a *HTTPArm) serverCPU() (sum float64) {
	for who, us := range a.CPU {
		if who != "generator" {
			sum += us
		}
	}
	return sum
}
