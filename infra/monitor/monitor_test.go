package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// after records a request that took so long.
func (m *Monitor) after(took time.Duration, route, method string, status int) {
	_, r := m.Begin(context.Background())
	m.record(r, route, method, status, took)
}

func TestPercentilesByNearestRank(t *testing.T) {
	m := New()
	for i := 1; i <= 100; i++ {
		m.after(time.Duration(i)*time.Millisecond, "/a", "GET", 200)
	}
	want := Summary{Count: 100, Mean: 50.5, P50: 50, P90: 90, P95: 95, P99: 99, Min: 1, Max: 100}
	r := m.Stats().Routes[0]
	if r.Window != want {
		t.Errorf("window: %+v", r.Window)
	}
	near := func(got, want float64) bool { return got >= want*0.99 && got <= want*1.01 }
	if g := r.Total; g.Count != 100 || !near(g.Mean, 50.5) || !near(g.P50, 50) || !near(g.P90, 90) || !near(g.P95, 95) || !near(g.P99, 99) || !near(g.Min, 1) || !near(g.Max, 100) {
		t.Errorf("total: %+v", g)
	}
	one := New()
	one.after(7*time.Millisecond, "/a", "GET", 200)
	if w := one.Stats().Routes[0].Window; w != (Summary{Count: 1, Mean: 7, P50: 7, P90: 7, P95: 7, P99: 7, Min: 7, Max: 7}) {
		t.Errorf("of one: %+v", w)
	}
}

// The window forgets, the total does not.
func TestWindow(t *testing.T) {
	m := New()
	for range maxWindow {
		m.after(time.Second, "/a", "GET", 200)
	}
	for range maxWindow {
		m.after(time.Millisecond, "/a", "GET", 503)
	}
	s := m.Stats()
	r := s.Routes[0]
	if r.Window.Count != maxWindow || r.Window.Max != 1 || r.Total.Count != 2*maxWindow || r.Total.Max < 990 || s.Count != 2*maxWindow {
		t.Errorf("%+v", r)
	}
	if r.Statuses["2xx"] != maxWindow || r.Statuses["5xx"] != maxWindow {
		t.Errorf("%v", r.Statuses)
	}
}

func TestRecentAndSlowest(t *testing.T) {
	m := New()
	for i := range MaxRecent + 5 {
		took := time.Millisecond
		if i%100 == 0 {
			took = 201*time.Millisecond + time.Duration(i)*time.Microsecond
		}
		m.after(took, "/a", "GET", 200)
	}
	if all := m.Recent(1 << 20); len(all) != MaxRecent {
		t.Errorf("%d are remembered", len(all))
	}
	if few := m.Recent(3); len(few) != 3 || few[0].Route != "/a" || few[0].Duration == 0 {
		t.Errorf("%+v", few)
	}
	slow := m.Stats().Slow
	if len(slow) != listedSlow || slow[0].Duration != 211 || slow[49].Duration != 206.1 {
		t.Errorf("%d slow ones, from %v to %v", len(slow), slow[0].Duration, slow[len(slow)-1].Duration)
	}
	if m.after(slowAfter, "/b", "GET", 200); len(m.slow) != 101 {
		t.Errorf("%d were slow", len(m.slow))
	}
	for range maxSlow {
		m.after(time.Minute, "/c", "GET", 200)
	}
	if len(m.slow) != maxSlow {
		t.Errorf("%d slow ones are remembered", len(m.slow))
	}
}

// A slow request tells where its time went, whoever measured it.
func TestParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New()
		ctx, r := m.Begin(t.Context())
		SetTenant(ctx, "acme")
		wait := func(p Part, d time.Duration) {
			s := Span(ctx, p)
			<-time.After(d)
			s.End()
		}
		wait(PoolWait, 100*time.Millisecond)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { wait(Query, 150*time.Millisecond) })
		}
		wg.Wait()
		r.Done("/v1/a/{id}", "GET", 200)
		r.Done("/twice", "GET", 500)
		s := m.Stats()
		want := `{"pool_wait":100,"query":300}`
		if got, _ := json.Marshal(s.Slow[0].Parts); len(s.Slow) != 1 || string(got) != want || s.Slow[0].Duration != 250 || s.Slow[0].Tenant != "acme" || len(s.Routes) != 1 {
			t.Errorf("%+v", s)
		}
	})
	Span(context.Background(), Query).End() // nobody's
	SetTenant(context.Background(), "acme")
}

// Whoever invents methods, or registers too many routes, fills nothing.
func TestBoundedRoutes(t *testing.T) {
	m := New()
	for i := range 2 * maxRoutes {
		m.after(time.Millisecond, fmt.Sprint("/", i), "GET", 200)
		m.after(time.Millisecond, "", fmt.Sprint("X", i), 404)
	}
	s := m.Stats()
	if len(s.Routes) > maxRoutes+2 || s.Count != 4*maxRoutes {
		t.Errorf("%d routes, %d requests", len(s.Routes), s.Count)
	}
}

// The figures of replicas merge as if one had seen everything.
func TestMerge(t *testing.T) {
	a, b, both := New(), New(), New()
	for i := 1; i <= 400; i++ {
		m := a
		if i%4 == 0 {
			m = b
		}
		for _, m := range []*Monitor{m, both} {
			m.after(time.Duration(i)*time.Millisecond, "/a", "GET", 200)
		}
	}
	b.after(time.Millisecond, "/only-b", "POST", 500)
	both.after(time.Millisecond, "/only-b", "POST", 500)
	sum, want := a.Mergeable(), both.Mergeable()
	text, err := json.Marshal(b.Mergeable()) // as it travels
	if err != nil {
		t.Fatal(err)
	}
	var theirs Stats
	if err = json.Unmarshal(text, &theirs); err != nil {
		t.Fatal(err)
	}
	if err = sum.Merge(theirs); err != nil {
		t.Fatal(err)
	}
	if sum.Count != 401 || len(sum.Routes) != 2 || sum.Routes[0].Total != want.Routes[0].Total || sum.Routes[0].TotalHist != want.Routes[0].TotalHist ||
		sum.Routes[1].Total != want.Routes[1].Total || sum.Routes[0].Statuses["2xx"] != 400 {
		t.Errorf("got  %+v\nwant %+v", sum.Shown(), want.Shown())
	}
	if got := sum.Routes[0].Window; got.Count != 400 || got.P50 < 198 || got.P50 > 202 {
		t.Errorf("%+v", got)
	}
	if len(sum.Slow) != listedSlow || sum.Slow[0].Duration != 400 || sum.Slow[1].Duration != 399 {
		t.Errorf("%d slow ones, the slowest %v", len(sum.Slow), sum.Slow[0].Duration)
	}
	if shown := sum.Shown(); shown.Routes[0].TotalHist != "" || sum.Routes[0].TotalHist == "" {
		t.Error("what is shown is not without histograms, or changed what it is of")
	}
	if len(sum.Recent) != listedRecent || sum.Recent[0].Route != "/only-b" || sum.Recent[0].Time.Before(sum.Recent[listedRecent-1].Time) {
		t.Errorf("recent: %+v", sum.Recent)
	}
	if nobody := (Stats{}); nobody.Merge(want) != nil || !nobody.Since.Equal(want.Since) {
		t.Errorf("of nobody and one: since %v, want %v", nobody.Since, want.Since)
	}
	theirs.Routes[0].TotalHist = "nonsense"
	if err = sum.Merge(theirs); err == nil {
		t.Error("nonsense was merged")
	}
}

func TestConcurrently(t *testing.T) {
	m := New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				m.after(time.Millisecond, "/a", "GET", 200)
			}
		})
	}
	for range 20 {
		m.Stats()
		m.Recent(100)
	}
	wg.Wait()
	if s := m.Stats(); s.Routes[0].Total.Count != 40_000 || s.Routes[0].Statuses["2xx"] != 40_000 {
		t.Errorf("%+v", s.Routes[0])
	}
}

func FuzzMerge(f *testing.F) {
	m := New()
	m.after(time.Millisecond, "/a", "GET", 200)
	s := m.Mergeable()
	f.Add(s.Routes[0].TotalHist)
	f.Add("")
	f.Add("HISTFAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		mine, theirs := m.Mergeable(), m.Mergeable()
		theirs.Routes[0].TotalHist = text
		_ = mine.Merge(theirs) // an error or not, but no panic
	})
}

func BenchmarkRequest(b *testing.B) {
	m := New()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ctx, r := m.Begin(context.Background())
			Span(ctx, Query).End()
			r.Done("/v1/prompts/{id}", "GET", 200)
		}
	})
}

func BenchmarkNoRequest(b *testing.B) {
	b.ReportAllocs()
	ctx := context.Background()
	for b.Loop() {
		Span(ctx, Query).End()
	}
}

func BenchmarkStats(b *testing.B) {
	m := New()
	for i := range 100_000 {
		m.after(time.Duration(i)*time.Microsecond, fmt.Sprint("/", i%40), "GET", 200)
	}
	for b.Loop() {
		m.Mergeable()
	}
}

func TestBuckets(t *testing.T) {
	m := New()
	for _, took := range []time.Duration{0, 900 * time.Microsecond, 3 * time.Millisecond, 150 * time.Millisecond, time.Minute} {
		m.after(took, "/a", "GET", 200)
	}
	b := m.Buckets()[0]
	if b.Count != 5 || b.UpTo[0.001] != 2 || b.UpTo[0.0025] != 2 || b.UpTo[0.005] != 3 || b.UpTo[0.1] != 3 || b.UpTo[0.2] != 4 || b.UpTo[10] != 4 || b.Seconds < 60.15 || b.Seconds > 60.16 {
		t.Errorf("%+v", b)
	}
}
