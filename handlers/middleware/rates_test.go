package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/cache"
	"forgewire/handlers/middleware"
	"forgewire/infra/devstack"
)

// limited is one replica's limit of ten requests a minute, and what asks it.
func limited(t *testing.T, valkey string) (get func(address string) int) {
	t.Helper()
	values, err := cache.New(cache.Config{URL: valkey, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rates := middleware.NewRates(values, slog.New(slog.DiscardHandler))
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
	}
}

// What one replica has answered counts at another one; without Valkey each has its own limit.
func TestRateOverReplicas(t *testing.T) {
	t.Parallel()
	dir, err := devstack.MkdirTemp("", "middleware-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, err := devstack.StartValkey(t.Context(), dir, nil, nil)
	if errors.Is(err, devstack.ErrNoValkey) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Stop(context.Background()) }()
	one, other := limited(t, server.URL()), limited(t, server.URL())
	for range 99 {
		if code := one("192.0.2.1:1"); code != http.StatusOK {
			t.Fatal(code)
		}
	}
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
	alone := limited(t, "")
	for i := range 101 {
		if code := alone("192.0.2.1:1"); (code == http.StatusOK) != (i < 100) {
			t.Errorf("without Valkey, request %d: %d", i+1, code)
		}
	}
}
