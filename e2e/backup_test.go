package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forgewire/infra/devstack"
)

// A physical backup and the archived write-ahead log bring the database back to a point in time, on another server,
// which replicas find at the old address. What was published after that point is gone: whoever holds some of it is
// told, and the others go on as if nothing had happened.
func TestPointInTimeRestored(t *testing.T) {
	variant(t)
	heavy(t)
	archive, err := devstack.MkdirTemp("", "forgewire-e2e-archive-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(archive) })
	server := ownServer(t, map[string]string{"wal_level": "replica", "archive_mode": "on", "archive_command": "cp %p " + archive + "/%f"})
	way := newProxy(t, server.Port())
	database := newDatabase(t, server)
	a := newAccident(t, options{url: database, urls: func(int) (string, string) { return way.url(t, database), way.url(t, database) }})

	base := filepath.Join(archive, "base")
	tool(t, "pg_basebackup", "-D", base, "-d", server.URL(), "-X", "none", "-c", "fast")
	// After the backup, and before the point: it comes back out of the archive.
	kept, _ := a.book.mustPost(a.replicas[0], "spared:1")
	a.spared.waitFor("spared:1", kept, 10*time.Second)
	point := query[string](t, a.url, "SELECT pg_current_wal_insert_lsn()::text")
	ids := a.doomed()
	last := query[string](t, a.url, "SELECT pg_walfile_name(pg_switch_wal())")
	until(t, 60*time.Second, "the archive having it all", func() string {
		return query[string](t, a.url, "SELECT CASE WHEN last_archived_wal >= $1 THEN '' ELSE coalesce(last_archived_wal, 'nothing') END FROM pg_stat_archiver", last)
	})
	a.away.away()
	if err = server.Kill(); err != nil {
		t.Fatal(err)
	}

	if err = os.WriteFile(filepath.Join(base, "recovery.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	restored, err := devstack.StartPostgres(t.Context(), base, map[string]string{"restore_command": "cp " + archive + "/%f %p",
		"recovery_target_lsn": point, "recovery_target_action": "promote"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = restored.Stop(context.Background()) })
	a.url = atDatabase(t, restored.URL(), filepath.Base(mustPath(t, database)))
	until(t, 30*time.Second, "the end of the recovery", func() string {
		if standby, err := tryQuery[bool](a.url, "SELECT pg_is_in_recovery()"); err != nil || standby {
			return "it goes on"
		}
		return ""
	})
	if !query[bool](t, a.url, "SELECT EXISTS (SELECT FROM forgewire.messages WHERE data::jsonb->>'id' = $1)", kept) {
		t.Error("what was published before the point did not come back")
	}
	way.lead(restored.Port())
	a.after(ids)
}
