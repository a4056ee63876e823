package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/valkey-io/valkey-go"
)

// ErrNotShared says that there is no Valkey in which replicas could share something.
var ErrNotShared = errors.New("cache: there is no Valkey to share it in")

// Shared says whether there is a Valkey, so that Add may succeed.
func (c *Cache) Shared() bool { return c.remote != nil }

// Add adds to numbers that all replicas share, each of which is forgotten when nobody has added to it for its life, and
// returns what they are now. On an error some may have been added.
func (c *Cache) Add(ctx context.Context, amounts map[string]int64, life time.Duration) (map[string]int64, error) {
	if c.remote == nil {
		return nil, ErrNotShared
	}
	if len(amounts) == 0 {
		return nil, nil
	}
	keys := make([]string, 0, len(amounts))
	for key := range amounts {
		keys = append(keys, key)
	}
	sums, err := call(ctx, c.remote, func(ctx context.Context, v valkey.Client) ([]int64, error) {
		commands := make(valkey.Commands, 0, 2*len(keys))
		for _, key := range keys {
			name := sumName(key)
			commands = append(commands, v.B().Incrby().Key(name).Increment(amounts[key]).Build(),
				v.B().Pexpire().Key(name).Milliseconds(life.Milliseconds()).Build())
		}
		sums := make([]int64, len(keys))
		for i, reply := range v.DoMulti(ctx, commands...) {
			n, err := reply.AsInt64()
			if err != nil {
				return nil, err
			}
			if i%2 == 0 {
				sums[i/2] = n
			}
		}
		return sums, nil
	})
	if err != nil {
		return nil, fmt.Errorf("add to what is shared: %w", err)
	}
	now := make(map[string]int64, len(keys))
	for i, key := range keys {
		now[key] = sums[i]
	}
	return now, nil
}
