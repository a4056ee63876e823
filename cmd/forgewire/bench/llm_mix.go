package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Mix is a day of requests in some seconds, made from a seed.
type Mix struct {
	Name     string        `json:"name"`
	Why      string        `json:"why"` // its rates are what they are
	Rate     float64       `json:"requests_per_second"`
	Duration time.Duration `json:"duration"`
	Parts    []MixPart     `json:"parts"`
}

// MixPart is one kind of request.
type MixPart struct {
	What  string  `json:"what"`
	Share float64 `json:"share"` // of all requests
	Model string  `json:"model"`

	// Prompts is from how many prompts each request takes one; 0: each is the only one of its kind.
	Prompts int `json:"prompts"`
	// Skew is the exponent of Zipf's law, above 1; 0: all prompts are asked equally often.
	Skew float64 `json:"zipf,omitempty"`
	// Burst is how many ask one and the same, new each time, within Over; 0: no bursts.
	Burst int           `json:"burst,omitempty"`
	Over  time.Duration `json:"burst_over,omitempty"`

	Streamed float64 `json:"streamed"`        // share
	Users    int     `json:"users,omitempty"` // the field user names one of so many in a third of the requests; 0: nobody does
}

// Mixes are the mix and the plain ones.
func Mixes(d time.Duration) []Mix {
	return []Mix{
		{Name: "mix", Rate: 200, Duration: d,
			Why: "most requests are popular questions to a slow model, from few prompts: what is asked a second time costs nothing. " +
				"Half of them stream and a third names its user, which a cache over raw requests takes for something new. " +
				"The one-off questions, which no exact cache can help, are few and go to a fast model",
			Parts: []MixPart{
				{What: "popular questions", Share: 0.70, Model: "slow", Prompts: 50, Skew: 1.1, Streamed: 0.5, Users: 5000},
				{What: "bursts: 20 ask the same within 4 s", Share: 0.08, Model: "slow", Burst: 20, Over: 4 * time.Second, Streamed: 0.5, Users: 5000},
				{What: "classification of recurring texts", Share: 0.16, Model: "fast", Prompts: 50, Skew: 1.1, Users: 5000},
				{What: "one-off questions", Share: 0.06, Model: "fast", Streamed: 0.5, Users: 5000},
			}},
		{Name: "conversation", Rate: 100, Duration: d,
			Why: "each turn carries all turns before it, so only openings, and what is sent twice (two tabs, a reload, a retry), are ever the same",
			Parts: []MixPart{
				{What: "turns of conversations", Share: 0.80, Model: "slow", Streamed: 1},
				{What: "openings offered as buttons", Share: 0.12, Model: "slow", Prompts: 12, Streamed: 1},
				{What: "sent twice within half a second", Share: 0.08, Model: "slow", Burst: 2, Over: 500 * time.Millisecond, Streamed: 1},
			}},
		{Name: "evaluation", Rate: 150, Duration: d,
			Why: "a suite is run again after each change, most of whose cases are as they were; nothing streams, so a naive cache does well too, " +
				"but for the cases that several jobs run at the same time",
			Parts: []MixPart{
				{What: "cases of the suite, run again", Share: 0.60, Model: "slow", Prompts: 200},
				{What: "the same case in 4 jobs at once", Share: 0.25, Model: "slow", Burst: 4, Over: 300 * time.Millisecond},
				{What: "cases that changed", Share: 0.15, Model: "slow"},
			}},
		{Name: "code", Rate: 150, Duration: d,
			Why: "what stands before the cursor is nearly always new; the same comes again after an undo, or while it is still being answered",
			Parts: []MixPart{
				{What: "completions at a new place", Share: 0.85, Model: "fast", Streamed: 1},
				{What: "asked again within 200 ms", Share: 0.08, Model: "fast", Burst: 2, Over: 200 * time.Millisecond, Streamed: 1},
				{What: "boilerplate", Share: 0.07, Model: "fast", Prompts: 40, Skew: 1.1, Streamed: 1},
			}},
	}
}

// describe is the mix in a line for each of its parts.
func (m Mix) describe(seed uint64, requests int) string {
	parts := []string{fmt.Sprintf("seed %d, %s requests in %v", seed, thousands(int64(requests)), m.Duration)}
	for _, p := range m.Parts {
		parts = append(parts, fmt.Sprintf("%.0f %% %s", 100*p.Share, p))
	}
	return strings.Join(parts, "; ") + ". Why: " + m.Why
}

// requests makes the mix's requests, in the order of their times. The same seed makes the same ones.
func (m Mix) requests(seed uint64) []due {
	r := rand.New(rand.NewPCG(seed, uint64(len(m.Name))))
	total := m.Rate * m.Duration.Seconds()
	var out []due
	for i, p := range m.Parts {
		n := int(total * p.Share)
		var zipf *rand.Zipf
		if p.Skew > 1 {
			zipf = rand.NewZipf(r, p.Skew, 1, uint64(p.Prompts-1))
		}
		for k := 0; k < n; k++ {
			at := time.Duration(r.Float64() * float64(m.Duration))
			switch {
			case p.Burst > 0:
				text := fmt.Sprintf("%s %d: burst %d", m.Name, i, k)
				for range p.Burst {
					out = append(out, p.one(r, text, at+time.Duration(r.Float64()*float64(p.Over))))
				}
				k += p.Burst - 1
			case p.Prompts == 0:
				out = append(out, p.one(r, fmt.Sprintf("%s %d: one-off %d", m.Name, i, k), at))
			case zipf != nil:
				out = append(out, p.one(r, fmt.Sprintf("%s %d: prompt %d", m.Name, i, zipf.Uint64()), at))
			default:
				out = append(out, p.one(r, fmt.Sprintf("%s %d: prompt %d", m.Name, i, r.IntN(p.Prompts)), at))
			}
		}
	}
	slices.SortStableFunc(out, func(a, b due) int { return int(a.at - b.at) })
	return out
}

func (p MixPart) one(r *rand.Rand, text string, at time.Duration) due {
	d := due{at: at, question: question{model: p.Model, text: text, stream: r.Float64() < p.Streamed}}
	if p.Users > 0 && r.IntN(3) == 0 {
		d.user = fmt.Sprintf("user-%d", r.IntN(p.Users))
	}
	return d
}

// String describes the part in a line.
func (p MixPart) String() string {
	s := fmt.Sprintf("%s (model %s", p.What, p.Model)
	switch {
	case p.Skew > 1:
		s += fmt.Sprintf(", %d prompts by Zipf's law with %.3g", p.Prompts, p.Skew)
	case p.Prompts > 0:
		s += fmt.Sprintf(", %d prompts", p.Prompts)
	case p.Burst == 0:
		s += ", each unique"
	}
	if p.Streamed > 0 {
		s += fmt.Sprintf(", %.0f %% streamed", 100*p.Streamed)
	}
	if p.Users > 0 {
		s += ", a third name their user"
	}
	return s + ")"
}
