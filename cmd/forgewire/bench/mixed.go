package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// MixedWarmup lets new replicas, with cold pools and caches and a hundred new backends of PostgreSQL, come to rest: on
// two slow cores that takes all of their CPU for four seconds, and what waits meanwhile waits for some more.
const MixedWarmup = 8 * time.Second

// MixedConfig says what Mixed does. A rate of 0 leaves somebody out.
type MixedConfig struct {
	Replicas    int
	Subscribers int // each follows all channels
	Channels    int
	Size        int           // of a message's data, in bytes
	Publish     int           // messages a second over HTTP
	SQL         int           // transactions a second with a business insert and a publish
	LLM         int           // chat requests a second, of the mix
	Cached      int           // reads a second that the cache may answer
	Uncached    int           // reads a second that it may not
	Write       int           // prompts made a second
	Warmup      time.Duration // MixedWarmup, or less for a quick look
	Duration    time.Duration
	Seed        uint64 // of the chat requests

	Setup
}

func (c *MixedConfig) check() error {
	if c.Size < minSize || c.Size > maxSize {
		return fmt.Errorf("the size must be between %d and %d bytes", minSize, maxSize)
	}
	if c.Replicas < 1 || c.Subscribers < 1 || c.Channels < 1 || c.Duration <= 0 || c.Warmup < 0 ||
		min(c.Publish, c.SQL, c.LLM, c.Cached, c.Uncached, c.Write) < 0 {
		return errors.New("replicas, subscribers, channels and the duration must be positive, and no rate negative")
	}
	if c.Publish == 0 {
		return errors.New("somebody must publish: the last messages tell that everything came")
	}
	return nil
}

// Names of what Mixed reports, and of those who are at work.
const (
	mixedTable   = "everything at once"
	mixedSeconds = "the longest of each second"
	mixedCPU     = "CPU in use"
	mixedTime    = "time"

	actHTTP     = "publishers, HTTP"
	actSQL      = "publishers, SQL"
	actLLM      = "LLM clients"
	actCached   = "readers, cached"
	actUncached = "readers, uncached"
	actWrite    = "writers"
	actReceive  = "subscribers"
)

// actor is somebody who does one kind of thing at a rate.
type actor struct {
	name string
	loop openLoop
	out  *outcome
}

// Mixed lets everybody work at once, open loop: publishers, publishers in SQL, subscribers, LLM clients, readers and
// writers over HTTP. Failures are counted by kind; only a promise that is broken ends it.
func Mixed(ctx context.Context, cfg MixedConfig) (out *Result, err error) {
	if err = cfg.check(); err != nil {
		return nil, err
	}
	m, err := startMixed(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.stop(ctx)) }()
	fmt.Fprintf(cfg.Progress, "everybody at once, for %v\n", cfg.Warmup+cfg.Duration)
	s, err := m.run(ctx)
	if err != nil {
		return nil, err
	}
	return m.report(s), nil
}

// run lets the actors and the subscribers work, and checks what came.
func (m *mixed) run(ctx context.Context) (*sample, error) {
	cfg := m.cfg
	l := load{size: cfg.Size, warmup: cfg.Warmup, duration: cfg.Duration}
	bounded, cancel := context.WithTimeout(ctx, l.whole()+answerPatience)
	defer cancel()
	failed, fail := context.WithCancelCause(bounded)
	defer fail(nil)
	receivers, err := m.sys.receivers(failed, cfg.Subscribers, m.channels)
	defer func() { closeAll(receivers) }()
	if err != nil {
		return nil, err
	}
	for i, r := range receivers {
		if r.fromSQL = m.firstSQL; i < histograms {
			r.sql = newHistogram()
		} else {
			r.sql = receivers[i%histograms].sql
		}
	}
	defer context.AfterFunc(failed, func() { closeAll(receivers) })() // a network call ends when its connection does
	w := l.window()
	actors := m.actors(w)
	out := newSample()
	working, wctx := errgroup.WithContext(failed)
	for _, a := range actors {
		working.Go(func() (err error) {
			if a.out, err = a.loop.run(wctx); err != nil {
				err = fmt.Errorf("%s: %w", a.name, err)
			}
			return err
		})
	}
	var rest errgroup.Group
	for i, r := range receivers {
		rest.Go(func() error {
			if err := r.run(w); err != nil {
				fail(fmt.Errorf("subscriber %d: %w", i, err))
			}
			return nil
		})
	}
	rest.Go(func() error { out.cpu = m.sys.watched.during(failed, w); return nil })
	if err = working.Wait(); err == nil {
		err = m.finish(failed, l)
	}
	if err != nil {
		fail(err)
	}
	_ = rest.Wait() // they report through fail
	if failed.Err() != nil {
		return nil, blame(context.Cause(failed), receivers)
	}
	m.ended, m.bySQL = actors, newHistogram()
	for i, r := range receivers {
		if i < histograms {
			m.bySQL.merge(r.sql)
		}
	}
	return out.collect(l, m.publishers, receivers)
}

// report describes what came of it.
func (m *mixed) report(s *sample) *Result {
	cfg := m.cfg
	t := &Table{Name: mixedTable, What: "open loop; each time from when a thing was due",
		Charts: []Chart{{Title: "everything at once, by percentile", Kind: percentiles, Y: mixedTime, Log: true}}}
	seconds := &Table{Name: mixedSeconds, Drawn: true, Charts: []Chart{{Title: "the longest of each second, ms", Kind: lines, X: "second", Y: "longest", Log: true}}}
	for _, a := range m.ended {
		did := ratio(float64(a.out.tally.Succeeded), cfg.Duration.Seconds())
		row := &Row{Name: a.name, Figures: []Figure{plain(offered, "/s", ratio(float64(a.out.tally.Asked), cfg.Duration.Seconds())), more("done", "/s", did)},
			Times: []Times{a.out.times.times(mixedTime)}, Tally: &a.out.tally}
		if a.name == actLLM {
			row.Figures = append(row.Figures, plain(hitOrJoined, "%", 100*m.saved()))
		}
		t.Rows = append(t.Rows, row)
		for i, ms := range a.out.worst {
			if at := float64(i) - cfg.Warmup.Seconds(); at >= 0 && ms > 0 {
				seconds.Rows = append(seconds.Rows, &Row{Name: fmt.Sprintf("%s, %g", a.name, at), Series: a.name, Figures: []Figure{plain("second", "", at), plain("longest", "ms", ms)}})
			}
		}
	}
	all := s.checked * cfg.Subscribers
	t.Rows = append(t.Rows, &Row{Name: actReceive + ", from HTTP", Figures: []Figure{more("done", "/s", ratio(float64(s.delivered), s.seconds))},
		Times: []Times{s.receive.times(mixedTime)}, Tally: &Tally{Asked: all, Succeeded: all}})
	if m.bySQL.h.TotalCount() > 0 {
		t.Rows = append(t.Rows, &Row{Name: actReceive + ", from SQL", Times: []Times{m.bySQL.times(mixedTime)}})
	}
	out := &Result{Bench: "mixed", What: fmt.Sprintf("%s, for %.3g s: %d subscribers of %d channels on %d replicas", mixedTable, cfg.Duration.Seconds(), cfg.Subscribers, cfg.Channels, len(m.sys.replicas)),
		Tables: []*Table{t, seconds}, Notes: append(m.notes, "Every acknowledged message came to every subscriber, once and in order; every answer was to what was asked.")}
	if len(s.cpu) > 1 { // more than the generator's own
		row := &Row{Name: "all"}
		for _, f := range cpuFigures(s.cpu) {
			row.Figures = append(row.Figures, plain(f.Name, "cores", f.Value/s.seconds))
		}
		out.Tables = append(out.Tables, &Table{Name: mixedCPU, Rows: []*Row{row}})
	}
	return out
}
