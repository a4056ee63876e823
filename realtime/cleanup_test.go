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

// Members of a replica that died unnoticed go; those of one that lives, or died just now and is still to be told of, stay.
func TestCleanPresence(t *testing.T) {
	t.Parallel()
	_, pool := newTestLog(t)
	for _, sql := range []string{
		`INSERT INTO forgewire.replicas (id, name, expires) VALUES ('alive', 'a', now() + interval '10 s'), ('just dead', 'b', now() - interval '10 s'), ('dead', 'c', now() - interval '2 h')`,
		`INSERT INTO forgewire.presence (channel, client, replica, "user") SELECT 'room', r, r, 'u' FROM unnest(ARRAY['alive', 'just dead', 'dead', 'unknown']) AS r`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return CleanPresence(t.Context(), tx) }); err != nil {
		t.Fatal(err)
	}
	if left := one[string](t, pool, "SELECT string_agg(client, ', ' ORDER BY client) FROM forgewire.presence"); left != "alive, just dead" {
		t.Errorf("left are %s", left)
	}
	if !one[bool](t, pool, "SELECT retired FROM forgewire.replicas WHERE id = 'dead'") {
		t.Error("the dead replica would not know that its members are gone")
	}
}
