package db_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
)

// What nobody needs goes, whatever role a replica connects as, and nothing else does.
func TestCleanupJobs(t *testing.T) {
	t.Parallel()
	for name, attributes := range map[string]string{"superuser": "SUPERUSER", "owner who may make no roles": "NOCREATEROLE"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := ownedBy(t, attributes)
			if err := db.Migrate(t.Context(), url); err != nil {
				t.Fatal(err)
			}
			pool := newPool(t, db.PoolConfig{URL: url, MaxConns: 2})
			err := db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `INSERT INTO forgewire.answers (tenant, key, fingerprint, expires_at) VALUES
					('acme', 'old', '', now() - interval '1 second'), ('acme', 'good', '', now() + interval '1 hour')`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pool.Exec(t.Context(), `INSERT INTO forgewire.river_job (kind, max_attempts, priority, queue, args, state, finalized_at) VALUES
				('k', 1, 1, 'q', '{}', 'completed', now() - interval '2 hours'), ('k', 1, 1, 'q', '{}', 'completed', now()),
				('k', 1, 1, 'q', '{}', 'discarded', now() - interval '2 days'), ('k', 1, 1, 'q', '{}', 'discarded', now() - interval '8 days'),
				('k', 1, 1, 'q', '{}', 'available', NULL)`)
			if err != nil {
				t.Fatal(err)
			}
			for _, job := range []db.CleanupJob{db.CleanAnswers, db.CleanQueue} {
				if err = db.InTx(t.Context(), pool, func(tx pgx.Tx) error { return job(t.Context(), tx) }); err != nil {
					t.Fatal(err)
				}
			}
			err = db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
				if keys := column(t, tx, "SELECT key FROM forgewire.answers"); len(keys) != 1 || keys[0] != "good" {
					t.Errorf("the keys left are %v", keys)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if jobs := column(t, pool, "SELECT state::text FROM forgewire.river_job ORDER BY id"); len(jobs) != 3 || jobs[0] != "completed" || jobs[1] != "discarded" || jobs[2] != "available" {
				t.Errorf("the jobs left are %v", jobs)
			}
		})
	}
}
