package e2e

import (
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A chaos run is told by the environment how long it lasts (FORGEWIRE_CHAOS_TIME), what it begins with
// (FORGEWIRE_CHAOS_SEED), which kinds of faults it has (FORGEWIRE_CHAOS_ONLY, an expression), and where it writes what
// it did (FORGEWIRE_CHAOS_REPORT).
const chaosTime = 60 * time.Second

// Things break one after the other, and two at once, while publishers, SQL publishers, subscribers, clients of the
// model and writers work. For everything that was acknowledged it demands: exactly once, in order, none lost, nothing
// for others' eyes; and after each fault everything works again. The seed says which faults come, in which order, how
// long each lasts and what the load does; what happens at the same time as what is the machine's to choose.
func TestChaos(t *testing.T) {
	t.Parallel()
	if os.Getenv("FORGEWIRE_CHAOS_TIME") == "" && !long() {
		t.Skip("it takes all of the machine: make chaos, or E2E_LONG=1")
	}
	lasts, seed, only := chaosTime, uint64(time.Now().UnixNano())%1_000_000, regexp.MustCompile(os.Getenv("FORGEWIRE_CHAOS_ONLY"))
	var err error
	if s := os.Getenv("FORGEWIRE_CHAOS_TIME"); s != "" {
		if lasts, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("FORGEWIRE_CHAOS_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("again with: make chaos TIME=%v SEED=%d", lasts, seed)
	w := newChaos(t, seed, chaosOptions{})
	w.newCrowd()
	w.run(newDeck(w, only), lasts)
}

// deck is the faults in the order in which they come: shuffled, and again when all have come.
type deck struct {
	w    *chaos
	rand *rand.Rand
	all  []fault
	left []fault
	// impossible are the kinds that cannot be had here.
	impossible []string
}

func newDeck(w *chaos, only *regexp.Regexp) *deck {
	d := &deck{w: w, rand: rand.New(rand.NewPCG(w.seed, 0))}
	for _, f := range chaosFaults() {
		switch {
		case !only.MatchString(f.kind):
		case f.needs != nil && !f.needs(w):
			d.impossible = append(d.impossible, f.kind)
		default:
			d.all = append(d.all, f)
		}
	}
	if len(d.all) == 0 {
		w.t.Fatal("no such kind of fault")
	}
	return d
}

// draw returns what breaks next: one thing, or two of different groups.
func (d *deck) draw() []fault {
	if len(d.left) == 0 {
		d.left = append(d.left, d.all...)
		d.rand.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	drawn := d.left[:1]
	if len(d.left) > 1 && d.rand.IntN(4) == 0 && d.left[0].group != d.left[1].group && !d.left[0].alone && !d.left[1].alone {
		drawn = d.left[:2]
	}
	d.left = d.left[len(drawn):]
	return drawn
}

// checkEvery is after how many faults all is compared with the log.
const checkEvery = 8

// run lets things break for a while.
func (w *chaos) run(d *deck, lasts time.Duration) {
	t := w.t
	report := newChaosReport(w, d)
	defer report.write()
	w.now("nothing")
	w.load.start()
	w.recovered()
	begin := time.Now()
	stop := make(chan os.Signal, 1)
	if lasts > chaosTime { // who ends a long run wants to know what it has found so far
		signal.Notify(stop, os.Interrupt, terminate)
		defer signal.Stop(stop)
	}
	for n := 1; time.Since(begin) < lasts && len(stop) == 0; n++ {
		faults := d.draw()
		var kinds []string
		for _, f := range faults {
			kinds = append(kinds, f.kind)
		}
		w.now(strings.Join(kinds, " and "))
		report.begins(kinds)
		took := w.breakAndMend(faults, d.rand, lasts)
		report.add(kinds, took)
		if n%checkEvery == 0 {
			w.settle()
			w.load.start()
		}
		if t.Failed() {
			t.Fatalf("fault %d of seed %d: %s", n, w.seed, kinds)
		}
	}
	w.settle()
	if n := w.tally.published.Load(); n == 0 || w.tally.inserted.Load() == 0 || w.tally.answered.Load() == 0 || w.tally.written.Load() == 0 || w.tally.refused.Load() == 0 {
		t.Errorf("somebody did nothing: this was no test: %s", report.counts())
	}
	report.ended = !t.Failed()
}

// breakAndMend begins faults, lets them last, ends them, and waits until all works again.
func (w *chaos) breakAndMend(faults []fault, r *rand.Rand, run time.Duration) time.Duration {
	last := time.Duration(0)
	var ends []func()
	for _, f := range faults {
		d := f.from
		if f.to > f.from {
			d += time.Duration(r.Int64N(int64(f.to - f.from)))
		}
		if run <= chaosTime { // a short run has more of them in place of longer ones
			d /= 2
		}
		last = max(last, d)
		ends = append(ends, f.begin(w, r))
	}
	during(w.t, last)
	for i := len(ends) - 1; i >= 0; i-- {
		ends[i]()
	}
	took := w.recovered()
	w.riskily(false)
	return took
}
