package realtime

import "testing"

func TestRush(t *testing.T) {
	t.Parallel()
	var r rush
	for i, look := range []struct {
		now  int64
		over bool
	}{
		{0, false}, {50, false}, {900, false}, {5000, false}, {9990, false}, {10_000, true}, {10_000, false},
		{10_090, false}, {9500, false}, {9500, false}, {3000, false}, {2990, true}, {0, false}, {0, true}, {0, false},
	} {
		if over := r.over(look.now); over != look.over {
			t.Errorf("look %d, at %d connections: %v, want %v", i, look.now, over, look.over)
		}
	}
}
