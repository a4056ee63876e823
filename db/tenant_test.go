package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
			sharedApart(t, pool)
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

// sharedApart tries the tables that the server writes for all tenants together: it goes on doing so, and who has entered a
// tenant finds the rows of that one, or has no right to any.
func sharedApart(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx := t.Context()
	tenants := []string{"left", "right"}
	var runs []db.Run
	var uses []db.Use
	for i, tenant := range tenants {
		key := strings.Repeat(string(rune('a'+i)), 16)
		if err := db.CreateKey(ctx, pool, db.Key{ID: key, Hash: bytes.Repeat([]byte{byte(i)}, 32), Tenant: tenant, RequestsPerMinute: new(int64(5))}); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, db.Run{ID: "run_" + tenant, Tenant: tenant, Started: time.Now(), Bodies: &db.RunBodies{Request: []byte("{}"), Answer: []byte("{}")}})
		uses = append(uses, db.Use{KeyID: key, Tenant: tenant, Requests: 1, TakenRequests: 1})
	}
	for range 2 { // the second time the rows are there
		if err := db.InsertRuns(ctx, pool, runs); err != nil {
			t.Fatal(err)
		}
		if standings, err := db.Settle(ctx, pool, uses); err != nil || len(standings) != 2 {
			t.Fatalf("%v, %v", standings, err)
		}
	}
	if got := column(t, pool, "SELECT tenant FROM forgewire.runs ORDER BY 1"); !slices.Equal(got, tenants) {
		t.Errorf("the server itself sees the runs of %v", got)
	}
	// Whoever is bound by policies and forgot to enter would now read nothing.
	for _, table := range []string{"runs", "run_bodies", "usage"} {
		must(pool.Exec(ctx, "CREATE POLICY entered ON forgewire."+table+" AS RESTRICTIVE FOR SELECT USING (coalesce(current_setting('forgewire.tenant', true), '') <> '')"))
	}
	for _, tenant := range tenants {
		if page, err := db.ListRuns(ctx, pool, db.RunFilter{Tenant: tenant, Limit: 5}); err != nil || len(page) != 1 {
			t.Errorf("%+v, %v", page, err)
		}
		if r, err := db.RunByID(ctx, pool, tenant, "run_"+tenant); err != nil || r.Tenant != tenant {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := db.BodiesOf(ctx, pool, tenant, "run_"+tenant); err != nil {
			t.Error(err)
		}
		if used, err := db.UsageOf(ctx, pool, tenant, time.Now()); err != nil || len(used) != 1 || used[0].Requests != 2 {
			t.Errorf("%+v, %v", used, err)
		}
		for _, table := range []string{"runs", "run_bodies", "usage", "keys"} {
			for _, statement := range []string{"SELECT tenant FROM forgewire.%s", "UPDATE forgewire.%s SET tenant = tenant RETURNING tenant", "DELETE FROM forgewire.%s RETURNING tenant"} {
				var got []string
				err := db.InTenant(ctx, pool, tenant, func(tx pgx.Tx) error {
					rows, err := tx.Query(ctx, fmt.Sprintf(statement, table))
					if err == nil {
						got, err = pgx.CollectRows(rows, pgx.RowTo[string])
					}
					return errors.Join(err, errOnPurpose) // so that it changes nothing
				})
				pg, refused := errors.AsType[*pgconn.PgError](err)
				mayRead := table != "keys" && strings.HasPrefix(statement, "SELECT")
				if !slices.Equal(got, []string{tenant}) && (mayRead || !refused || pg.Code != "42501") {
					t.Errorf("%s in %s: %v, %v", fmt.Sprintf(statement, table), tenant, got, err)
				}
			}
		}
	}
	for _, table := range []string{"runs", "run_bodies", "usage"} {
		must(pool.Exec(ctx, "DROP POLICY entered ON forgewire."+table))
	}
	if err := db.RevokeKey(ctx, pool, uses[0].KeyID); err != nil {
		t.Error(err)
	}
	if err := db.RetireRuns(ctx, pool, time.Now().AddDate(0, 0, 3), time.Now().AddDate(0, 0, 3)); err != nil {
		t.Error(err)
	}
	if got := column(t, pool, "SELECT tenant FROM forgewire.runs"); len(got) != 0 {
		t.Errorf("the runs of %v were not retired", got)
	}
}

// A replica may connect as a role that owns nothing, and is bound by every policy: what the server writes for all tenants
// it writes, too.
func TestARoleThatOwnsNothing(t *testing.T) {
	t.Parallel()
	at := ownedBy(t, "CREATEROLE")
	if err := db.Migrate(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	owner := must(pgx.Connect(t.Context(), at))
	defer owner.Close(t.Context())
	u := must(url.Parse(at))
	role := "app_of_" + strings.TrimPrefix(u.Path, "/")
	for _, sql := range []string{"CREATE ROLE %s LOGIN PASSWORD 'secret'", "GRANT USAGE ON SCHEMA forgewire TO %s", "GRANT ALL ON ALL TABLES IN SCHEMA forgewire TO %s",
		"GRANT ALL ON ALL SEQUENCES IN SCHEMA forgewire TO %s", "GRANT ALL ON ALL FUNCTIONS IN SCHEMA forgewire TO %s", "SELECT forgewire.make_run_partitions()%.0s"} {
		if _, err := owner.Exec(t.Context(), fmt.Sprintf(sql, role)); err != nil {
			t.Fatal(err)
		}
	}
	u.User = url.UserPassword(role, "secret")
	pool := newPool(t, db.PoolConfig{URL: u.String()})
	runs := []db.Run{{ID: "run_1", Tenant: "left", Started: time.Now()}, {ID: "run_2", Tenant: "right", Started: time.Now()}}
	if err := db.InsertRuns(t.Context(), pool, runs); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Settle(t.Context(), pool, []db.Use{{Tenant: "left", Requests: 1}, {Tenant: "right", Requests: 1}}); err != nil {
		t.Fatal(err)
	}
	err := db.InTenant(t.Context(), pool, "left", func(tx pgx.Tx) error {
		if got := column(t, tx, "SELECT tenant FROM forgewire.runs UNION ALL SELECT tenant FROM forgewire.usage"); !slices.Equal(got, []string{"left", "left"}) {
			t.Errorf("a tenant sees the rows of %v", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A table with rows of tenants has a policy, unless docs/serve.md says that it has none, and why.
func TestEachTableOfTenantsHasAPolicy(t *testing.T) {
	t.Parallel()
	conn := connect(t, dbtest.New(t))
	got := strings.Join(column(t, conn, `SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
		WHERE c.relnamespace = 'forgewire'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)) ORDER BY 1`), " ")
	if got != "flights" {
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
