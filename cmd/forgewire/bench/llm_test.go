package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// ideal is what a mix allows: an exact cache that knows the meaning of a request, joins what is under way, and
// takes no time; beside it the naive one.
func ideal(requests []due) (saved, naive, cut float64) {
	took := func(q question) time.Duration {
		b := fakeModels[q.model]
		return b.FirstToken + time.Duration(b.Tokens-1)*b.Interval
	}
	ends := map[string]time.Duration{} // of the first call for a text
	naiveEnds := map[string]time.Duration{}
	var all, waits time.Duration
	for _, d := range requests {
		all += took(d.question)
		switch end, asked := ends[d.text]; {
		case !asked:
			ends[d.text] = d.at + took(d.question)
			waits += took(d.question)
		default:
			saved++
			waits += max(0, end-d.at)
		}
		if d.stream {
			continue
		}
		key := d.text + d.user
		if end, asked := naiveEnds[key]; asked && end <= d.at {
			naive++
		} else if !asked {
			naiveEnds[key] = d.at + took(d.question)
		}
	}
	n := float64(len(requests))
	return saved / n, naive / n, 1 - float64(waits)/float64(all)
}

// The mix is what the documents say of it, whatever the seed.
func TestMixes(t *testing.T) {
	for _, m := range Mixes(20 * time.Second) {
		for seed := range uint64(3) {
			requests := m.requests(seed)
			saved, naive, cut := ideal(requests)
			t.Logf("%s, seed %d: %d requests, saved %.1f %%, naive %.1f %%, wait cut by %.1f %%", m.Name, seed, len(requests), 100*saved, 100*naive, 100*cut)
			if m.Name == "mix" && (saved < 0.85 || naive < 0.25 || naive > 0.35 || cut < 0.91) {
				t.Errorf("seed %d: saved %.3f, naive %.3f, cut %.3f", seed, saved, naive, cut)
			}
			if !slices.Equal(requests, m.requests(seed)) {
				t.Errorf("%s: the same seed makes other requests", m.Name)
			}
			share := 0.0
			for _, p := range m.Parts {
				share += p.Share
			}
			if fmt.Sprintf("%.6f", share) != "1.000000" {
				t.Errorf("%s: the shares make %f", m.Name, share)
			}
		}
	}
}

// The naive cache and the generator, on a fake model alone.
func TestNaiveArm(t *testing.T) {
	ctx := testContext(t)
	m, err := fakellm.Start(fakellm.Config{Behaviours: map[string]fakellm.Behaviour{"slow": {}, "fast": {}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	naive, err := startNaive(ctx, m.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer naive.stop()
	requests := Mixes(time.Second)[0].requests(1)
	a, err := runArm(ctx, &llmSystem{model: m}, []target{naive.target}, requests)
	if err != nil {
		t.Fatal(err)
	}
	if a.hit == 0 || a.joined != 0 || a.calls != len(requests)-int(a.hit*float64(len(requests))+0.5) || a.wait <= 0 {
		t.Errorf("%+v of %d requests", a, len(requests))
	}
}

// A false answer, or half of one, ends the measurement.
func TestWrongAnswersAreFound(t *testing.T) {
	ctx := testContext(t)
	m, err := fakellm.Start(fakellm.Config{Behaviours: map[string]fakellm.Behaviour{"m": {}, "half": {Fault: fakellm.NoDone}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, err := dialLLM(ctx, target{base: urlOf(t, strings.TrimSuffix(m.URL(), "/v1"))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, stream := range []bool{false, true} {
		if _, err = c.ask(question{model: "m", text: "a question", stream: stream}, nil); err != nil {
			t.Error(err)
		}
	}
	if _, err = c.ask(question{model: "half", text: "x", stream: true}, nil); !errors.Is(err, ErrWrongAnswer) {
		t.Errorf("half an answer: %v", err)
	}
	if _, err = c.ask(question{model: "none", text: "x"}, nil); err == nil {
		t.Error("an error of the model was taken for an answer")
	}
}

func TestCacheStatus(t *testing.T) {
	for header, want := range map[string]string{
		"": "miss", "forgewire; hit; ttl=86000": "hit", "forgewire; fwd=miss; stored": "miss",
		"forgewire; fwd=miss; collapsed": "joined", "forgewire; hit; ttl=-3; detail=stale-if-error": "stale", "naive; fwd=miss": "miss",
	} {
		if got := cacheStatus(header); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestLLM(t *testing.T) {
	t.Parallel()
	mix := Mixes(2 * time.Second)[0]
	mix.Rate = 60
	r, err := LLM(testContext(t), LLMConfig{
		Replicas: 2, Samples: 20, Rounds: 1, Starts: 1, Rate: 50, Duration: time.Second, Streams: 10, Tokens: 5, Seed: 1,
		Mixes: []Mix{mix}, Setup: Setup{Binary: binary, Progress: testLog{t}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.table(llmSingle).Rows); n < 6 {
		t.Errorf("%d cases", n)
	}
	checkRows(t, r, llmLoad, "upstream", "miss")
	if row := r.table(llmStreams).row("10 streams through Forgewire"); row == nil || row.figure("tokens").Value != 50 {
		t.Errorf("%+v", row)
	}
	checkRows(t, r, mixTable(mix.Name), noCache, naiveCached, forgewire)
	calls := func(arm string) float64 { return r.table(mixTable(mix.Name)).row(arm).figure("model calls").Value }
	if calls(forgewire) >= calls(naiveCached) || calls(naiveCached) >= calls(noCache) || calls(noCache) != float64(len(mix.requests(1))) {
		t.Errorf("calls: %v, %v, %v", calls(forgewire), calls(naiveCached), calls(noCache))
	}
	checkPrints(t, r, "hit, local", "added", forgewire, "wait cut by")
}
