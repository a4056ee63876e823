package monitor

import "time"

// bounds are the upper ends of Prometheus' buckets.
var bounds = []time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Buckets counts the requests of one method and pattern by what they took.
type Buckets struct {
	Route, Method string
	Statuses      map[string]uint64 // by class: "2xx"
	Count         uint64
	Seconds       float64 // in all
	UpTo          map[float64]uint64
}

// Buckets counts since the start, for Prometheus.
func (m *Monitor) Buckets() (all []Buckets) {
	m.routes.Range(func(_, v any) bool {
		r := v.(*route)
		h := r.total()
		b := Buckets{Route: r.key.pattern, Method: r.key.method, Statuses: r.statuses(), Count: uint64(h.TotalCount()),
			Seconds: float64(r.micros.Load()) / 1e6, UpTo: make(map[float64]uint64, len(bounds))}
		for _, bound := range bounds {
			b.UpTo[bound.Seconds()] = 0
		}
		var sum uint64
		next := 0
		for _, bar := range h.Distribution() {
			if bar.Count == 0 {
				continue
			}
			for next < len(bounds) && bar.From >= bounds[next].Microseconds() {
				b.UpTo[bounds[next].Seconds()] = sum
				next++
			}
			sum += uint64(bar.Count)
		}
		for ; next < len(bounds); next++ {
			b.UpTo[bounds[next].Seconds()] = sum
		}
		all = append(all, b)
		return true
	})
	return all
}
