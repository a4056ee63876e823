package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// arm is what became of a mix's requests. Rates are shares of all requests, waits in milliseconds.
type arm struct {
	hit, joined, stale float64
	calls              int     // of the model
	wait, first        float64 // mean, until the whole answer was there; until the first token, or the whole answer where it does not stream
	outcome            *outcome
}

// saved is the share of requests that were answered without a call of their own.
func (a *arm) saved() float64 { return a.hit + a.joined + a.stale }

// Names of what a mix reports.
const (
	hitOrJoined = "hit or joined"
	waitCut     = "wait cut by"
	noCache     = "no cache"
	naiveCached = "naive cache"
)

// row describes an arm beside the one without a cache.
func (a *arm) row(name string, without *arm) *Row {
	r := &Row{Name: name, Figures: []Figure{plain("hit", "%", 100*a.hit), plain("joined", "%", 100*a.joined), plain("stale", "%", 100*a.stale),
		plain(hitOrJoined, "%", 100*a.saved()), plain("model calls", "", float64(a.calls)), plain("mean wait", "ms", a.wait), plain("mean first token", "ms", a.first),
		plain(waitCut, "%", 100*(1-ratio(a.wait, without.wait)))}, Times: []Times{a.outcome.times.times(answer)}, Tally: &a.outcome.tally}
	if name == forgewire {
		r.figure(hitOrJoined).Better, r.figure(waitCut).Better = More, More
	}
	return r
}

// mixWorkers bounds how many requests are under way: more than any mix needs.
const mixWorkers = 600

// measureMix sends a mix three times: without a cache, through a naive one, and through ours.
func measureMix(ctx context.Context, cfg LLMConfig, sys *llmSystem, m Mix) (*Table, error) {
	requests := m.requests(cfg.Seed)
	t := &Table{Name: mixTable(m.Name), What: m.describe(cfg.Seed, len(requests)), Charts: []Chart{{Title: "mix " + m.Name + ": the wait", Kind: percentiles, Y: answer, Log: true}}}
	naive, err := startNaive(ctx, sys.model.URL())
	if err != nil {
		return nil, err
	}
	defer naive.stop()
	var without *arm
	for _, one := range []struct {
		name    string
		targets []target
	}{{noCache, []target{sys.direct}}, {naiveCached, []target{naive.target}}, {forgewire, sys.ours}} {
		fmt.Fprintf(cfg.Progress, "mix %s: %d requests in %v, %s\n", m.Name, len(requests), m.Duration, one.name)
		a, err := runArm(ctx, sys, one.targets, requests)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		if without == nil {
			without = a
		}
		t.Rows = append(t.Rows, a.row(one.name, without))
	}
	return t, nil
}

func mixTable(name string) string { return "mix " + name }

func runArm(ctx context.Context, sys *llmSystem, targets []target, requests []due) (*arm, error) {
	var mu sync.Mutex
	counts := map[string]float64{}
	var wait, first time.Duration
	before := sys.model.Count("")
	o, err := askAll(ctx, targets, mixWorkers, requests, 0, func(late time.Duration, r llmReply) {
		mu.Lock()
		defer mu.Unlock()
		counts[r.cache]++
		wait += late + r.done
		first += late + r.first
	})
	if err != nil {
		return nil, err
	}
	if o.tally.Succeeded == 0 {
		return nil, fmt.Errorf("nothing was answered: %w", o.last)
	}
	n := float64(o.tally.Succeeded)
	mean := func(d time.Duration) float64 { return d.Seconds() * 1000 / n }
	return &arm{hit: counts["hit"] / n, joined: counts["joined"] / n, stale: counts["stale"] / n,
		calls: sys.model.Count("") - before, wait: mean(wait), first: mean(first), outcome: o}, nil
}
