package resources

import (
	"log/slog"
	"testing"

	"forgewire/cache"
)

func newHeard(t *testing.T) *invalidator {
	t.Helper()
	c, err := cache.New(cache.Config{LocalBytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return newInvalidator(c, slog.New(slog.DiscardHandler))
}

// What is published with our change may be heard before we have forgotten it. Another's change, which comes after, is not
// taken for ours.
func TestHeardBeforeItWasForgotten(t *testing.T) {
	t.Parallel()
	i := newHeard(t)
	i.changes("prompt")
	i.hear("prompt") // ours
	i.changed(t.Context(), "prompt")
	if len(i.tags) != 0 {
		t.Error("our own change is forgotten twice")
	}
	if i.hear("prompt"); !i.tags["prompt"] {
		t.Error("another's change is not forgotten")
	}
}

// Where our change came to nothing, another's may have been taken for it.
func TestHeardInPlaceOfWhatFailed(t *testing.T) {
	t.Parallel()
	i := newHeard(t)
	i.changes("prompt")
	i.hear("prompt") // another's
	if i.unchanged("prompt"); !i.tags["prompt"] || len(i.mine) != 0 {
		t.Errorf("%v is to be forgotten, %v to be heard", i.tags, i.mine)
	}
	clear(i.tags)
	i.changes("prompt")
	i.unchanged("prompt")
	if i.hear("prompt"); !i.tags["prompt"] {
		t.Error("what was taken back is still waited for")
	}
}
