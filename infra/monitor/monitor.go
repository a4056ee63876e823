package monitor

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is remembered.
const (
	MaxRecent    = 10_000 // requests of all routes
	maxWindow    = 1000   // requests of one route
	maxRoutes    = 200    // patterns with their methods; more are counted together
	maxSlow      = 1000   // slow requests, of which Stats lists the slowest
	listedSlow   = 50
	listedRecent = 20
	slowAfter    = 200 * time.Millisecond
	otherRoute   = "other"
	unknownRoute = "unmatched"
	otherMethod  = "OTHER"
)

// Monitor records requests. It is safe for concurrent use.
type Monitor struct {
	started time.Time
	count   atomic.Int64 // of routes
	routes  sync.Map     // routeKey to *route

	next   atomic.Uint64
	recent [MaxRecent]slot

	slowMu   sync.Mutex
	slow     []Recorded // a ring
	slowNext int
}

// slot is one of the requests that are remembered. Its lock is only fought for by requests that are ten
// thousand apart.
type slot struct {
	mu  sync.Mutex
	req Recorded
}

type routeKey struct{ method, pattern string }

// Recorded is a request that has ended.
type Recorded struct {
	Route    string             `json:"route"`
	Method   string             `json:"method"`
	Status   int                `json:"status"`
	Time     time.Time          `json:"time"` // when it began
	Duration float64            `json:"duration_ms"`
	Tenant   string             `json:"tenant,omitempty"`
	Parts    map[string]float64 `json:"parts_ms,omitempty"` // where its time went; of slow ones
}

// New returns a monitor that has seen nothing.
func New() *Monitor { return &Monitor{started: time.Now()} }

func (m *Monitor) record(r *Request, pattern, method string, status int, took time.Duration) {
	rt := m.route(pattern, method)
	rt.add(took, status)
	done := Recorded{Route: rt.key.pattern, Method: rt.key.method, Status: status, Time: r.began, Duration: ms(took)}
	if t := r.tenant.Load(); t != nil {
		done.Tenant = *t
	}
	s := &m.recent[(m.next.Add(1)-1)%MaxRecent]
	s.mu.Lock()
	s.req = done
	s.mu.Unlock()
	if took > slowAfter {
		m.addSlow(r, done)
	}
}

func (m *Monitor) addSlow(r *Request, done Recorded) {
	for p := range parts {
		if d := r.parts[p].Load(); d > 0 {
			if done.Parts == nil {
				done.Parts = map[string]float64{}
			}
			done.Parts[p.String()] = ms(time.Duration(d))
		}
	}
	m.slowMu.Lock()
	defer m.slowMu.Unlock()
	if len(m.slow) < maxSlow {
		m.slow = append(m.slow, done)
		return
	}
	m.slow[m.slowNext] = done
	m.slowNext = (m.slowNext + 1) % maxSlow
}

// route returns where a request is counted. Clients may invent methods, but neither patterns nor many routes.
func (m *Monitor) route(pattern, method string) *route {
	switch method {
	case "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS":
	default:
		method = otherMethod
	}
	if pattern == "" {
		pattern = unknownRoute
	}
	key := routeKey{method, pattern}
	if rt, ok := m.routes.Load(key); ok {
		return rt.(*route)
	}
	if m.count.Load() >= maxRoutes {
		key = routeKey{otherMethod, otherRoute}
	}
	rt, known := m.routes.LoadOrStore(key, newRoute(key))
	if !known {
		m.count.Add(1)
	}
	return rt.(*route)
}

// Recent returns the requests that ended last, the newest first, at most n.
func (m *Monitor) Recent(n int) []Recorded {
	end := m.next.Load()
	all := []Recorded{}
	for i := end; i > 0 && end-i < MaxRecent && len(all) < n; i-- {
		s := &m.recent[(i-1)%MaxRecent]
		s.mu.Lock()
		if s.req.Method != "" { // it may be about to be written
			all = append(all, s.req)
		}
		s.mu.Unlock()
	}
	return all
}

// slowest returns the slowest of the slow requests that are remembered, the slowest first.
func (m *Monitor) slowest() []Recorded {
	m.slowMu.Lock()
	all := append([]Recorded{}, m.slow...)
	m.slowMu.Unlock()
	return sortSlow(all)
}

func sortSlow(all []Recorded) []Recorded {
	slices.SortStableFunc(all, func(a, b Recorded) int {
		switch {
		case a.Duration > b.Duration:
			return -1
		case a.Duration < b.Duration:
			return 1
		}
		return 0
	})
	return all[:min(len(all), listedSlow)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
