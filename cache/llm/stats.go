package llm

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// maxStats bounds the tenants, models and classes that are told apart; what is more is counted under "other".
const maxStats = 500

// Stats is what the cache did for one model and class, since this replica started.
type Stats struct {
	Model          string  `json:"model"`
	Class          string  `json:"class"`
	Requests       int64   `json:"requests"`
	Hits           int64   `json:"hits"`
	Misses         int64   `json:"misses"`
	Collapsed      int64   `json:"collapsed"`
	Stale          int64   `json:"stale"`
	Bypassed       int64   `json:"bypassed"`
	HitRate        float64 `json:"hit_rate"` // percent that did not wait for a call of their own: hits, collapsed and stale; without bypassed
	TokensSaved    int64   `json:"tokens_saved"`
	CostMicros     int64   `json:"cost_micros"`      // paid
	SavedMicros    int64   `json:"saved_micros"`     // not paid
	SecondsAvoided float64 `json:"seconds_avoided"`  // of waiting for the model
	Failed         int64   `json:"failed"`           // requests that got an error
	MeanFirstToken float64 `json:"mean_first_token"` // seconds
	FirstTokens    int64   `json:"first_tokens"`     // answers that MeanFirstToken is of
}

type statistics struct {
	mu   sync.Mutex
	rows map[[3]string]*Stats // by tenant, model and class; guarded by mu
}

func newStatistics() *statistics { return &statistics{rows: map[[3]string]*Stats{}} }

func (s *statistics) add(run Run, class string, avoided time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := [3]string{run.Tenant, run.Model, class}
	row := s.rows[k]
	if row == nil {
		if len(s.rows) >= maxStats {
			k = [3]string{"", "other", "other"}
		}
		if row = s.rows[k]; row == nil {
			row = &Stats{Model: k[1], Class: k[2]}
			s.rows[k] = row
		}
	}
	row.Requests++
	switch run.Cache {
	case Hit:
		row.Hits++
	case Miss:
		row.Misses++
	case Collapsed:
		row.Collapsed++
	case Stale:
		row.Stale++
	case Bypass:
		row.Bypassed++
	}
	if run.Error != "" {
		row.Failed++
	}
	row.CostMicros += run.CostMicros
	row.SavedMicros += run.SavedMicros
	row.SecondsAvoided += avoided.Seconds()
	if run.Cache == Hit || run.Cache == Collapsed || run.Cache == Stale {
		row.TokensSaved += run.PromptTokens + run.CompletionTokens
	}
	if run.FirstToken > 0 {
		row.FirstTokens++
		row.MeanFirstToken += (run.FirstToken.Seconds() - row.MeanFirstToken) / float64(row.FirstTokens)
	}
}

// finish computes what follows from the counts.
func (row *Stats) finish() {
	if n := row.Hits + row.Collapsed + row.Stale; n > 0 {
		row.HitRate = 100 * float64(n) / float64(n+row.Misses)
	}
}

// Add adds up what two replicas, or two models, have.
func (row *Stats) Add(o Stats) {
	if n := row.FirstTokens + o.FirstTokens; n > 0 {
		row.MeanFirstToken += (o.MeanFirstToken - row.MeanFirstToken) * float64(o.FirstTokens) / float64(n)
		row.FirstTokens = n
	}
	row.Requests += o.Requests
	row.Hits += o.Hits
	row.Misses += o.Misses
	row.Collapsed += o.Collapsed
	row.Stale += o.Stale
	row.Bypassed += o.Bypassed
	row.Failed += o.Failed
	row.TokensSaved += o.TokensSaved
	row.CostMicros += o.CostMicros
	row.SavedMicros += o.SavedMicros
	row.SecondsAvoided += o.SecondsAvoided
	row.finish()
}

// Stats returns this replica's statistics, by model and class, and their sum: of all tenants.
func (s *Service) Stats() (total Stats, rows []Stats) {
	return s.statsOf(func(string) bool { return true })
}

// statsOf are those of some tenants.
func (s *Service) statsOf(of func(tenant string) bool) (total Stats, rows []Stats) {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	sums := map[[2]string]*Stats{}
	for k, row := range s.stats.rows {
		if !of(k[0]) {
			continue
		}
		sum := sums[[2]string{row.Model, row.Class}]
		if sum == nil {
			sum = &Stats{Model: row.Model, Class: row.Class}
			sums[[2]string{row.Model, row.Class}] = sum
		}
		sum.Add(*row)
		total.Add(*row)
	}
	for _, r := range sums {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(a, b Stats) int { return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Class, b.Class)) })
	return total, rows
}

// Away is how many models of upstreams this replica leaves alone at the moment, as they fail.
func (s *Service) Away() int { return s.client.breakers.away(time.Now()) }
