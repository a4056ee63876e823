package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// Whatever role a replica connects as, a query that forgets its WHERE finds only its tenant's rows, and one that
// forgets the tenant finds none, or is the owner's own.
func TestTenantsAreKeptApart(t *testing.T) {
	t.Parallel()
	for name, attributes := range map[string]string{"superuser": "SUPERUSER", "owner": "CREATEROLE", "owner who may make no roles": "NOCREATEROLE",
		"role with BYPASSRLS": "BYPASSRLS CREATEROLE"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := ownedBy(t, attributes)
			if err := db.Migrate(t.Context(), url); err != nil {
				t.Fatal(err)
			}
			pool := must(db.NewPool(t.Context(), db.PoolConfig{URL: url, MaxConns: 3}))
			t.Cleanup(pool.Close)
			apart(t, pool, name)
		})
	}
}

func apart(t *testing.T, pool *pgxpool.Pool, name string) {
	for _, tenant := range []string{"acme", "o'hara; DROP TABLE x--"[:6]} {
		err := db.InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
			_, err := db.CreatePrompt(t.Context(), tx, tenant, "pr_"+tenant, "greet", db.PromptVersion{Template: "Hello " + tenant, Variables: []string{}})
			if err == nil {
				err = db.Tell(t.Context(), tx, "$prompts:"+tenant, []byte(`{}`))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
		for _, table := range []string{"prompts", "prompt_versions"} {
			if tenants := strings.Join(column(t, tx, "SELECT tenant FROM forgewire."+table), " "); tenants != "acme" {
				t.Errorf("%s without a WHERE: %s", table, tenants)
			}
		}
		if n := must(tx.Exec(t.Context(), "UPDATE forgewire.prompts SET name = 'mine'")).RowsAffected(); n != 1 {
			t.Errorf("%d rows were changed", n)
		}
		if must(tx.Exec(t.Context(), "DELETE FROM forgewire.prompt_labels")).RowsAffected() != 0 {
			t.Error("labels were deleted")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
		_, err := db.CreatePrompt(t.Context(), tx, "other", "pr_x", "x", db.PromptVersion{Variables: []string{}})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a row of another tenant was inserted: %v", err)
	}
	if _, err = db.ReadPrompt(t.Context(), pool, "other", "pr_acme", db.PromptChoice{}); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("another tenant's prompt: %v", err)
	}
	if p, err := db.ReadPrompt(t.Context(), pool, "acme", "pr_acme", db.PromptChoice{}); err != nil || p.Template != "Hello acme" || p.Name != "mine" {
		t.Errorf("%+v, %v", p, err)
	}
	// The connection that was used is nobody's afterwards, and a version does not change, not even for its tenant.
	for range 5 {
		if setting := column(t, pool, "SELECT coalesce(current_setting('forgewire.tenant', true), '') || (CASE WHEN current_user = session_user THEN '' ELSE current_user END)"); setting[0] != "" {
			t.Errorf("a connection is still in %v", setting)
		}
	}
	seen := len(column(t, pool, "SELECT tenant FROM forgewire.prompts"))
	if forced := name == "owner who may make no roles"; forced && seen != 0 || !forced && seen != 2 {
		t.Errorf("%s sees %d rows of no tenant", name, seen)
	}
	err = db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "UPDATE forgewire.prompt_versions SET template = 'x'")
		return err
	})
	if err == nil {
		t.Error("a version was changed")
	}
	err = db.InTenant(t.Context(), pool, "acme", func(tx pgx.Tx) error { return db.DeletePrompt(t.Context(), tx, "acme", "pr_acme") })
	if err != nil {
		t.Error(err)
	}
	if n := 0; pool.QueryRow(t.Context(), "SELECT count(*) FROM forgewire.outbox WHERE channel LIKE '$prompts:%'").Scan(&n) != nil || n != 2 {
		t.Errorf("%d changes were published", n)
	}
}

// A table with rows of tenants has a policy, unless docs/serve.md says that it has none, and why.
func TestEachTableOfTenantsHasAPolicy(t *testing.T) {
	t.Parallel()
	conn := connect(t, dbtest.New(t))
	got := strings.Join(column(t, conn, `SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
		WHERE c.relnamespace = 'forgewire'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)) ORDER BY 1`), " ")
	if got != "flights keys run_bodies runs usage" {
		t.Errorf("these have no policy: %s", got)
	}
}

type asker interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func column(t *testing.T, q asker, sql string) []string {
	t.Helper()
	return must(pgx.CollectRows(must(q.Query(t.Context(), sql)), pgx.RowTo[string]))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// ownedBy makes an empty database of a new role with these attributes, and returns its URL as that role.
func ownedBy(t *testing.T, attributes string) string {
	t.Helper()
	u := must(url.Parse(dbtest.NewEmpty(t)))
	database := strings.TrimPrefix(u.Path, "/")
	role := "owner_of_" + database
	conn := must(pgx.Connect(t.Context(), u.String()))
	defer conn.Close(t.Context())
	for _, sql := range []string{"CREATE ROLE %s LOGIN PASSWORD 'secret' %s", "ALTER DATABASE " + database + " OWNER TO %s%.0s", "GRANT CREATE ON DATABASE " + database + " TO %s%.0s"} {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(sql, role, attributes)); err != nil {
			t.Fatal(err)
		}
	}
	u.User = url.UserPassword(role, "secret")
	return u.String()
}
