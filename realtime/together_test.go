package realtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However many ask while a question is under way, there is one more, asked after all of them came.
func TestTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := together[int64]{within: time.Minute}
		var asked atomic.Int64
		slow := func(context.Context) (int64, error) {
			n := asked.Add(1)
			<-time.After(time.Second)
			return n, nil
		}
		var all sync.WaitGroup
		ask := func(key string, want int64) {
			all.Go(func() {
				if n, err := shared.ask(t.Context(), key, slow); err != nil || n != want {
					t.Errorf("%s: %d, %v; want %d", key, n, err, want)
				}
			})
		}
		ask("a", 1)
		synctest.Wait()
		for range 100 {
			ask("a", 2)
		}
		synctest.Wait() // one of them will ask for all, and not the one who leaves
		ctx, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := shared.ask(ctx, "a", slow); !errors.Is(err, context.Canceled) {
				t.Errorf("who left was told %v", err)
			}
		})
		synctest.Wait()
		leave()
		all.Wait()
		if n := asked.Load(); n != 2 || len(shared.now)+len(shared.next) != 0 {
			t.Errorf("%d questions, %d and %d are left", n, len(shared.now), len(shared.next))
		}
		ask("b", 3)
		all.Wait()
	})
}

// Who asks for all may leave, and a question that hangs ends.
func TestTogetherLeaderLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := together[string]{within: time.Minute}
		hang := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", fmt.Errorf("ask: %w", ctx.Err())
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := shared.ask(t.Context(), "a", hang); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("what hung said %v", err)
			}
		})
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		answer := func(ctx context.Context) (string, error) { return "yes", ctx.Err() }
		for _, ctx := range []context.Context{ctx, t.Context()} {
			all.Go(func() {
				if s, err := shared.ask(ctx, "a", answer); err != nil || s != "yes" {
					t.Errorf("%q, %v", s, err)
				}
			})
			synctest.Wait()
		}
		leave()
		all.Wait()
	})
}
