package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/cache"
	"forgewire/db/dbtest"
	"forgewire/handlers/middleware"
)

// away is what replicas share, which one of them cannot reach for a while.
type away struct {
	middleware.Sums
	gone   atomic.Bool
	failed chan struct{} // an attempt has
}

func (a *away) Add(ctx context.Context, amounts map[string]int64, life time.Duration) (map[string]int64, error) {
	if a.gone.Load() {
		select {
		case a.failed <- struct{}{}:
		case <-ctx.Done():
		}
		return nil, errors.New("it is away")
	}
	return a.Sums.Add(ctx, amounts, life)
}

// limited is one replica's limit of a hundred requests a minute, what asks it, and what it shares through.
func limited(t *testing.T, valkey string) (get func(address string) int, through *away) {
	t.Helper()
	values, err := cache.New(cache.Config{URL: valkey, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	through = &away{Sums: values, failed: make(chan struct{})}
	rates := middleware.NewRates(through, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return values.Run(ctx) })
	g.Go(func() error { return rates.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = g.Wait() })
	h := middleware.Rate(100, rates)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return func(address string) int {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = address
		h.ServeHTTP(w, r)
		return w.Code
	}, through
}

// What one replica has answered counts at another one, also what it could not tell when it was asked; without Valkey each
// has its own limit.
func TestRateOverReplicas(t *testing.T) {
	t.Parallel()
	url := dbtest.Valkey(t, nil).URL()
	one, through := limited(t, url)
	other, _ := limited(t, url)
	through.gone.Store(true)
	for range 99 {
		if code := one("192.0.2.1:1"); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	<-through.failed
	<-through.failed // now no request is left that would have it try again
	through.gone.Store(false)
	answered := 0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); other("192.0.2.1:1") == http.StatusOK; <-tick.C {
		if answered++; answered > 60 || time.Now().After(deadline) {
			t.Fatalf("the other replica answered %d times", answered)
		}
	}
	if code := other("192.0.2.2:1"); code != http.StatusOK {
		t.Errorf("another address: %d", code)
	}
	alone, _ := limited(t, "")
	for i := range 101 {
		if code := alone("192.0.2.1:1"); (code == http.StatusOK) != (i < 100) {
			t.Errorf("without Valkey, request %d: %d", i+1, code)
		}
	}
}

// shared says when something was.
type shared struct {
	middleware.Sums
	done chan struct{}
}

func (s shared) Add(ctx context.Context, amounts map[string]int64, life time.Duration) (map[string]int64, error) {
	sums, err := s.Sums.Add(ctx, amounts, life)
	if err == nil {
		s.done <- struct{}{}
	}
	return sums, err
}

// A replica that is asked for the first time in a window learns what another one answered in the window before.
func TestRateOfTheWindowBefore(t *testing.T) {
	t.Parallel()
	values, err := cache.New(cache.Config{URL: dbtest.Valkey(t, nil).URL(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return values.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = g.Wait() })
	now := time.Now()
	count := func(at time.Time, n int) *middleware.Rates {
		s := shared{values, make(chan struct{}, 10)}
		r := middleware.NewRates(s, slog.New(slog.DiscardHandler))
		r.Config(100, time.Hour)
		g.Go(func() error { return r.Run(ctx) })
		if err := r.IncrementBy("192.0.2.1", at, n); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.done:
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was shared")
		}
		return r
	}
	count(now.Add(-time.Hour), 42)
	other := count(now, 7)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		current, before, err := other.Get("192.0.2.1", now, now.Add(-time.Hour))
		if err == nil && current == 7 && before == 42 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it knows of %d and %d, %v", current, before, err)
		}
	}
}
