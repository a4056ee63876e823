package cache

import (
	"errors"
	"testing"
	"time"
)

// Replicas add to the same numbers, which end with their life.
func TestAdd(t *testing.T) {
	t.Parallel()
	server := ownValkey(t, nil)
	one, other := connected(t, server.URL()), connected(t, server.URL())
	add := func(c *Cache, n int64) int64 {
		sums, err := c.Add(testContext(t), map[string]int64{"a": n, "b": 1}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return sums["a"]
	}
	if sum := add(one, 2); sum != 2 {
		t.Errorf("the first has %d", sum)
	}
	if sum := add(other, 3); sum != 5 {
		t.Errorf("both have %d", sum)
	}
	if left, err := tell(t, admin(t, server.URL()), "PTTL", sumName("a")).AsInt64(); err != nil || left <= 0 || left > time.Hour.Milliseconds() {
		t.Errorf("it lives for %d ms, %v", left, err)
	}
	alone := start(t, Config{})
	if _, err := alone.Add(testContext(t), map[string]int64{"a": 1}, time.Hour); !errors.Is(err, ErrNotShared) || alone.Shared() || !one.Shared() {
		t.Errorf("without Valkey: %v", err)
	}
}
