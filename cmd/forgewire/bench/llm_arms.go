package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// MixRun is one mix, sent three times: without a cache, through a naive one, and through ours.
type MixRun struct {
	Mix      Mix    `json:"mix"`
	Seed     uint64 `json:"seed"`
	Requests int    `json:"requests"`
	NoCache  Arm    `json:"no_cache"`
	Naive    Arm    `json:"naive"`
	Ours     Arm    `json:"forgewire"`
}

// Arm is what became of a mix's requests. Rates are shares of all requests, waits in milliseconds.
type Arm struct {
	Hit        float64 `json:"hit"`
	Joined     float64 `json:"joined"`
	Stale      float64 `json:"stale"`
	Calls      int     `json:"calls_of_the_model"`
	MeanWait   float64 `json:"mean_wait_ms"`        // until the whole answer was there
	FirstToken float64 `json:"mean_first_token_ms"` // or the whole answer, where it does not stream
	Cut        float64 `json:"mean_wait_cut"`       // against no cache, as a share
}

// Saved is the share of requests that were answered without a call of their own.
func (a Arm) Saved() float64 { return a.Hit + a.Joined + a.Stale }

// mixWorkers bounds how many requests are under way: more than any mix needs.
const mixWorkers = 600

func measureMix(ctx context.Context, cfg LLMConfig, sys *llmSystem, m Mix) (MixRun, error) {
	requests := m.requests(cfg.Seed)
	run := MixRun{Mix: m, Seed: cfg.Seed, Requests: len(requests)}
	naive, err := startNaive(ctx, sys.model.URL())
	if err != nil {
		return run, err
	}
	defer naive.stop()
	for _, arm := range []struct {
		what    string
		targets []target
		into    *Arm
	}{
		{"without a cache", []target{sys.direct}, &run.NoCache},
		{"with a naive cache", []target{naive.target}, &run.Naive},
		{"through the replicas", sys.ours, &run.Ours},
	} {
		fmt.Fprintf(cfg.Progress, "mix %s: %d requests in %v, %s\n", m.Name, len(requests), m.Duration, arm.what)
		if *arm.into, err = runArm(ctx, sys, arm.targets, requests); err != nil {
			return run, fmt.Errorf("%s: %w", arm.what, err)
		}
	}
	for _, a := range []*Arm{&run.Naive, &run.Ours} {
		a.Cut = 1 - ratio(a.MeanWait, run.NoCache.MeanWait)
	}
	return run, nil
}

func runArm(ctx context.Context, sys *llmSystem, targets []target, requests []due) (Arm, error) {
	var mu sync.Mutex
	counts := map[string]float64{}
	var wait, first time.Duration
	before := sys.model.Count("")
	err := openLoop(ctx, targets, mixWorkers, requests, func(_ due, late time.Duration, r llmReply) {
		mu.Lock()
		defer mu.Unlock()
		counts[r.cache]++
		wait += late + r.done
		first += late + r.first
	})
	n := float64(len(requests))
	mean := func(d time.Duration) float64 { return d.Seconds() * 1000 / n }
	return Arm{Hit: counts["hit"] / n, Joined: counts["joined"] / n, Stale: counts["stale"] / n,
		Calls: sys.model.Count("") - before, MeanWait: mean(wait), FirstToken: mean(first)}, err
}
