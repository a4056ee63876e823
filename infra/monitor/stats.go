package monitor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Stats are the figures of one replica or, merged, of several.
type Stats struct {
	Since  time.Time    `json:"since"` // the first replica's start
	Count  uint64       `json:"count"`
	Routes []RouteStats `json:"routes"` // by pattern and method
	Slow   []Recorded   `json:"slow"`   // the slowest first
	Recent []Recorded   `json:"recent"` // the newest first
}

// RouteStats are the figures of one method and pattern.
type RouteStats struct {
	Route    string            `json:"route"`
	Method   string            `json:"method"`
	Statuses map[string]uint64 `json:"statuses"` // by class: "2xx"
	Window   Summary           `json:"window"`   // of the last 1,000 of each replica
	Total    Summary           `json:"total"`    // since the start

	// Histograms that Merge needs, encoded; empty in what is shown.
	WindowHist string `json:"window_histogram,omitempty"`
	TotalHist  string `json:"total_histogram,omitempty"`
}

// Summary describes durations, in milliseconds. Percentiles are by nearest rank: each is the duration of a
// request that there was, to two digits where many are summed up.
type Summary struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	Min   float64 `json:"min_ms"`
	Max   float64 `json:"max_ms"`
}

// Stats returns this replica's figures, without the histograms.
func (m *Monitor) Stats() Stats { return m.stats(false) }

// Mergeable returns this replica's figures with what Merge needs.
func (m *Monitor) Mergeable() Stats { return m.stats(true) }

func (m *Monitor) stats(mergeable bool) Stats {
	s := Stats{Since: m.started, Routes: []RouteStats{}, Slow: m.slowest(), Recent: m.Recent(listedRecent)}
	m.routes.Range(func(_, v any) bool {
		r := v.(*route)
		total, last := r.total(), r.last()
		rs := RouteStats{Route: r.key.pattern, Method: r.key.method, Statuses: r.statuses(), Window: summarise(last), Total: summaryOf(total)}
		if mergeable {
			window := newHistogram()
			for _, d := range last {
				_ = window.RecordValue(min(max(int64(d/1000), lowest), highest)) // it is in range
			}
			rs.WindowHist, rs.TotalHist = encode(window), encode(total)
		}
		s.Count += rs.Total.Count
		s.Routes = append(s.Routes, rs)
		return true
	})
	s.sort()
	return s
}

var classNames = [6]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (r *route) statuses() map[string]uint64 {
	all := map[string]uint64{}
	for i := range r.classes {
		if n := r.classes[i].Load(); n > 0 {
			all[classNames[i]] = n
		}
	}
	return all
}

func (s *Stats) sort() {
	slices.SortFunc(s.Routes, func(a, b RouteStats) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method))
	})
}

// summarise describes durations in nanoseconds. It sorts them.
func summarise(all []uint64) (s Summary) {
	if len(all) == 0 {
		return s
	}
	slices.Sort(all)
	sum := 0.0
	for _, d := range all {
		sum += float64(d)
	}
	at := func(percent float64) float64 {
		rank := int(math.Ceil(percent / 100 * float64(len(all)))) // nearest rank: the sketch's int(n*q) overshoots
		return float64(all[max(rank, 1)-1]) / 1e6
	}
	return Summary{Count: uint64(len(all)), Mean: sum / float64(len(all)) / 1e6, P50: at(50), P90: at(90), P95: at(95), P99: at(99),
		Min: at(0), Max: at(100)}
}

func summaryOf(h *hdrhistogram.Histogram) Summary {
	if h.TotalCount() == 0 {
		return Summary{}
	}
	at := func(percent float64) float64 { return float64(h.ValueAtPercentile(percent)) / 1000 }
	return Summary{Count: uint64(h.TotalCount()), Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P95: at(95), P99: at(99),
		Min: float64(h.Min()) / 1000, Max: float64(h.Max()) / 1000}
}

// Merge adds another replica's figures. Both must be Mergeable, or s the figures of nobody yet.
func (s *Stats) Merge(o Stats) error {
	if s.Since.IsZero() || o.Since.Before(s.Since) {
		s.Since = o.Since
	}
	s.Count += o.Count
	s.Slow = sortSlow(append(s.Slow, o.Slow...))
	s.Recent = append(s.Recent, o.Recent...)
	slices.SortStableFunc(s.Recent, func(a, b Recorded) int { return b.Time.Compare(a.Time) })
	s.Recent = s.Recent[:min(len(s.Recent), listedRecent)]
	for _, theirs := range o.Routes {
		i := slices.IndexFunc(s.Routes, func(r RouteStats) bool { return r.Route == theirs.Route && r.Method == theirs.Method })
		if i < 0 {
			if len(s.Routes) < 2*maxRoutes {
				s.Routes = append(s.Routes, theirs)
			}
			continue
		}
		if err := s.Routes[i].merge(theirs); err != nil {
			return fmt.Errorf("merge the figures of %s %s: %w", theirs.Method, theirs.Route, err)
		}
	}
	s.sort()
	return nil
}

func (r *RouteStats) merge(o RouteStats) error {
	window, err := mergeEncoded(r.WindowHist, o.WindowHist)
	if err != nil {
		return err
	}
	total, err := mergeEncoded(r.TotalHist, o.TotalHist)
	if err != nil {
		return err
	}
	statuses := map[string]uint64{}
	for _, all := range []map[string]uint64{r.Statuses, o.Statuses} {
		for class, n := range all {
			statuses[class] += n
		}
	}
	r.Statuses = statuses
	r.Window, r.WindowHist = summaryOf(window), encode(window)
	r.Total, r.TotalHist = summaryOf(total), encode(total)
	return nil
}

// Shown is the figures without the histograms.
func (s Stats) Shown() Stats {
	s.Routes = slices.Clone(s.Routes)
	for i := range s.Routes {
		s.Routes[i].WindowHist, s.Routes[i].TotalHist = "", ""
	}
	return s
}

func encode(h *hdrhistogram.Histogram) string {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return "" // which does not decode: whoever merges it is told
	}
	return string(b)
}

func mergeEncoded(texts ...string) (*hdrhistogram.Histogram, error) {
	sum := newHistogram()
	for _, text := range texts {
		h, err := hdrhistogram.Decode([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("decode a histogram: %w", err)
		}
		if dropped := sum.Merge(h); dropped > 0 {
			return nil, fmt.Errorf("a histogram has %d values that do not fit", dropped)
		}
	}
	return sum, nil
}
