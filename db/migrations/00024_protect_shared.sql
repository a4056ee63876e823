-- Row-level security for the tables that the server itself writes, and reads, for all tenants together: a query of a tenant's
-- that forgets its WHERE finds nothing of anybody else there, either.

-- +goose Up

-- Protects a table with a column `tenant` from tenants: who has entered one finds only its rows. Who has entered none is the
-- server itself, also where he is bound by policies, as an owner with FORCE is, and a replica's own role. The setting is read
-- once a statement. Of IS NOT NULL the planner thinks that it leaves nearly all; of a second comparison with the tenant, that
-- it leaves next to nothing, and it would then sort what it can read in order.
-- +goose StatementBegin
CREATE FUNCTION forgewire.protect_shared(kind regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', kind);
    EXECUTE format($f$CREATE POLICY shared ON %s USING (CASE WHEN tenant = (SELECT current_setting('forgewire.tenant', true))
        OR (SELECT coalesce(current_setting('forgewire.tenant', true), '')) = '' THEN true END IS NOT NULL)$f$, kind);
END $$;
-- +goose StatementEnd

-- As before, but tenants only read what the server writes, and know nothing of keys. A table is locked only if there is
-- something to change.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.make_tenant_role() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role constant name := forgewire.tenant_role();
    kind record;
    made boolean := true;
BEGIN
    BEGIN
        IF to_regrole(quote_ident(role)) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL; -- another database's migration was faster
        WHEN insufficient_privilege THEN made := false;
    END;
    BEGIN
        -- The right to SET ROLE, which since PostgreSQL 16 does not come with having created it.
        IF made AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN made := false;
    END;
    FOR kind IN SELECT c.oid::regclass AS name, c.relforcerowsecurity AS forced,
            EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'shared') AS shared
        FROM pg_class c WHERE c.relnamespace = 'forgewire'::regnamespace AND c.relrowsecurity LOOP
        IF made AND NOT kind.shared THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', kind.name, role);
        END IF;
        IF made AND kind.forced THEN
            EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', kind.name);
        ELSIF NOT made AND NOT kind.forced THEN
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', kind.name);
        END IF;
    END LOOP;
    IF made THEN
        EXECUTE format('GRANT SELECT ON forgewire.runs, forgewire.run_bodies, forgewire.usage TO %I', role);
        EXECUTE format('GRANT USAGE ON SCHEMA forgewire TO %I', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION forgewire.publish, forgewire.announce, forgewire.leave, forgewire.claim_answer TO %I', role);
    END IF;
END $$;
-- +goose StatementEnd

SELECT forgewire.protect_shared(kind) FROM unnest(ARRAY['forgewire.runs', 'forgewire.run_bodies', 'forgewire.usage', 'forgewire.keys']::regclass[]) AS kind;
REVOKE ALL ON FUNCTION forgewire.protect_shared FROM PUBLIC;
SELECT forgewire.make_tenant_role();

-- +goose Down
-- What make_tenant_role was is of no matter to who calls it; but a right to read what nothing protects is.
-- +goose StatementBegin
DO $$
DECLARE
    kind text;
BEGIN
    IF to_regrole(quote_ident(forgewire.tenant_role())) IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON forgewire.runs, forgewire.run_bodies, forgewire.usage FROM %I', forgewire.tenant_role());
    END IF;
    FOREACH kind IN ARRAY ARRAY['runs', 'run_bodies', 'usage', 'keys'] LOOP
        EXECUTE format('DROP POLICY shared ON forgewire.%I', kind);
        EXECUTE format('ALTER TABLE forgewire.%I DISABLE ROW LEVEL SECURITY', kind);
        EXECUTE format('ALTER TABLE forgewire.%I NO FORCE ROW LEVEL SECURITY', kind);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION forgewire.protect_shared;
