package cache

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

// Replicas add to the same numbers, which end with their life.
func TestAdd(t *testing.T) {
	t.Parallel()
	server := dbtest.Valkey(t, nil)
	one, other := connected(t, server.URL()), connected(t, server.URL())
	var name string
	var first, both int64
	eventually(t, func() bool { // a busy machine's Valkey may be too slow, and then nobody knows what was added
		name = rand.Text()
		var err error
		if first, err = add(t, one, name, 2); err == nil {
			both, err = add(t, other, name, 3)
		}
		return err == nil
	}, "nothing can be added")
	if first != 2 || both != 5 {
		t.Errorf("the first has %d, both have %d", first, both)
	}
	if left, err := tell(t, admin(t, server.URL()), "PTTL", sumName(name)).AsInt64(); err != nil || left <= 0 || left > time.Hour.Milliseconds() {
		t.Errorf("it lives for %d ms, %v", left, err)
	}
	alone := start(t, Config{})
	if _, err := alone.Add(testContext(t), map[string]int64{"a": 1}, time.Hour); !errors.Is(err, ErrNotShared) || alone.Shared() || !one.Shared() {
		t.Errorf("without Valkey: %v", err)
	}
}

func add(t *testing.T, c *Cache, name string, n int64) (int64, error) {
	t.Helper()
	sums, err := c.Add(testContext(t), map[string]int64{name: n, name + "b": 1}, time.Hour)
	return sums[name], err
}
