package realtime

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
)

func TestCleanUpForgetsWhatIsRetired(t *testing.T) {
	t.Parallel()
	l, pool := newTestLog(t)
	m := appendN(t, l, "room:1", 1)
	if _, err := l.Hide(t.Context(), "room:1"); err != nil {
		t.Fatal(err)
	}
	clean := func() int {
		t.Helper()
		if err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return CleanUp(t.Context(), tx) }); err != nil {
			t.Fatal(err)
		}
		return one[int](t, pool, "SELECT count(*) FROM forgewire.hidden")
	}
	if n := clean(); n != 1 {
		t.Errorf("%d are left while the log has the messages", n)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE forgewire.log SET retired = $1", int64(m[0].Offset)); err != nil {
		t.Fatal(err)
	}
	if n := clean(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
