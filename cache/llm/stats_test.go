package llm

import "testing"

func TestStatsAdd(t *testing.T) {
	a := Stats{Hits: 1, Misses: 1, Requests: 2, SavedMicros: 5, FirstTokens: 1, MeanFirstToken: 1}
	a.Add(Stats{Hits: 2, Requests: 2, SavedMicros: 7, FirstTokens: 3, MeanFirstToken: 3})
	if a.Hits != 3 || a.Requests != 4 || a.SavedMicros != 12 || a.HitRate != 75 || a.FirstTokens != 4 || a.MeanFirstToken != 2.5 {
		t.Errorf("%+v", a)
	}
	var none Stats
	if none.Add(Stats{}); none != (Stats{}) {
		t.Errorf("%+v", none)
	}
}
