-- Prompts of /v1, and what keeps the tenants of such resources apart: row-level security, so that a query that
-- forgets its WHERE finds nothing of anybody else.

-- +goose Up

-- Makes a moment's transaction that of one tenant. Row-level security does not bind superusers, roles with
-- BYPASSRLS, nor a table's owner: such a role becomes forgewire.tenant_role() until the transaction ends. Where
-- that role could not be made, the tables FORCE row-level security, and the owner is bound as he is.
-- +goose StatementBegin
CREATE FUNCTION forgewire.enter(tenant text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('forgewire.tenant', tenant, true);
    IF NOT row_security_active('forgewire.prompts') THEN
        -- What tenant_role() says, without calling it: a function in SQL is planned anew each time, which takes longer than
        -- the read that this is for.
        PERFORM set_config('forgewire.left_role', current_setting('role'), true),
                set_config('role', left('forgewire_tenant_' || pg_get_userbyid(c.relowner), 63)::name::text, true)
           FROM pg_class c WHERE c.oid = 'forgewire.prompts'::regclass;
    END IF;
END $$;
-- +goose StatementEnd

-- Ends what enter began before the transaction does, for what belongs to no tenant: the queue of jobs.
-- +goose StatementBegin
CREATE FUNCTION forgewire.leave() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('forgewire.left_role', true), '') <> '' THEN
        PERFORM set_config('role', current_setting('forgewire.left_role'), true);
        PERFORM set_config('forgewire.left_role', '', true);
    END IF;
    PERFORM set_config('forgewire.tenant', '', true);
END $$;
-- +goose StatementEnd

-- Protects a table with a column `tenant`. Whoever has not entered a tenant finds nothing: the setting is then
-- NULL or '', which no tenant is.
-- +goose StatementBegin
CREATE FUNCTION forgewire.protect(kind regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', kind);
    EXECUTE format($f$CREATE POLICY tenant ON %s USING (tenant = current_setting('forgewire.tenant', true))$f$, kind);
END $$;
-- +goose StatementEnd

-- Makes the role that enter takes, and gives it the protected tables. It is called by the migrations, and may be
-- called again by whoever restored a dump on another server. A role that may not create roles gets FORCE instead,
-- with which pg_dump needs a role with BYPASSRLS.
-- +goose StatementBegin
CREATE FUNCTION forgewire.make_tenant_role() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role constant name := forgewire.tenant_role();
    kind regclass;
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
    FOR kind IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'forgewire'::regnamespace AND c.relrowsecurity LOOP
        IF made THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', kind, role);
            EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', kind);
        ELSE
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', kind);
        END IF;
    END LOOP;
    IF made THEN
        EXECUTE format('GRANT USAGE ON SCHEMA forgewire TO %I', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION forgewire.publish, forgewire.announce, forgewire.leave, forgewire.claim_answer TO %I', role);
    END IF;
END $$;
-- +goose StatementEnd

CREATE TABLE forgewire.prompts (
    tenant     text        NOT NULL COLLATE "C" CHECK (tenant ~ '^[!-~]{1,128}$'),
    id         text        NOT NULL COLLATE "C", -- its order is that of creation
    name       text        NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    version    int         NOT NULL DEFAULT 1, -- the newest
    revision   bigint      NOT NULL DEFAULT 1, -- counts every change: the ETag
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    CONSTRAINT prompts_name UNIQUE (tenant, name)
);

-- Roles belong to the whole server, so the name has the owner's in it: two owners of two databases on one server
-- do not become members of one role.
-- +goose StatementBegin
CREATE FUNCTION forgewire.tenant_role() RETURNS name LANGUAGE sql STABLE AS $$
    SELECT left('forgewire_tenant_' || pg_get_userbyid(c.relowner), 63)::name FROM pg_class c WHERE c.oid = 'forgewire.prompts'::regclass
$$;
-- +goose StatementEnd

CREATE TABLE forgewire.prompt_versions (
    tenant     text        NOT NULL COLLATE "C",
    prompt_id  text        NOT NULL COLLATE "C",
    version    int         NOT NULL,
    template   text        NOT NULL,
    variables  text[]      NOT NULL,
    key_id     text        NOT NULL, -- who made it; '' is the server's own key
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, prompt_id, version),
    FOREIGN KEY (tenant, prompt_id) REFERENCES forgewire.prompts ON DELETE CASCADE
);

-- A version never changes. (A trigger, because a policy would only hide the rows from the UPDATE.)
-- +goose StatementBegin
CREATE FUNCTION forgewire.keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of a prompt does not change: make a new one' USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
CREATE TRIGGER keep_version BEFORE UPDATE ON forgewire.prompt_versions FOR EACH ROW EXECUTE FUNCTION forgewire.keep_version();

CREATE TABLE forgewire.prompt_labels (
    tenant    text NOT NULL COLLATE "C",
    prompt_id text NOT NULL COLLATE "C",
    label     text NOT NULL COLLATE "C",
    version   int  NOT NULL,
    PRIMARY KEY (tenant, prompt_id, label),
    FOREIGN KEY (tenant, prompt_id, version) REFERENCES forgewire.prompt_versions ON DELETE CASCADE
);

-- The answers to requests that came with an Idempotency-Key, for a day.
CREATE TABLE forgewire.answers (
    tenant      text        NOT NULL COLLATE "C",
    key         text        NOT NULL COLLATE "C",
    fingerprint bytea       NOT NULL, -- SHA-256 of method, path and body
    status      int,                  -- NULL until the transaction that makes it commits, so nobody sees that
    header      jsonb       NOT NULL DEFAULT '{}',
    body        bytea,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX answers_expire ON forgewire.answers (expires_at);

-- Claims an idempotency key for the caller's transaction. It returns nothing if the key is the caller's, and the answer
-- that is there already otherwise; a request with the same key that is under way is waited for. On the way it takes
-- away a few rows that have expired, of any tenant: more than it adds.
-- +goose StatementBegin
CREATE FUNCTION forgewire.claim_answer(key text, print bytea, life interval)
RETURNS TABLE (fingerprint bytea, status int, header jsonb, body bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    me constant text := current_setting('forgewire.tenant');
BEGIN
    INSERT INTO forgewire.answers AS a (tenant, key, fingerprint, expires_at)
        VALUES (me, claim_answer.key, print, clock_timestamp() + life)
        ON CONFLICT ON CONSTRAINT answers_pkey DO UPDATE SET fingerprint = EXCLUDED.fingerprint, status = NULL, header = '{}', body = NULL,
            expires_at = EXCLUDED.expires_at WHERE a.expires_at <= clock_timestamp();
    IF NOT FOUND THEN
        RETURN QUERY SELECT a.fingerprint, a.status, a.header, a.body FROM forgewire.answers a WHERE a.tenant = me AND a.key = claim_answer.key;
        RETURN;
    END IF;
    PERFORM set_config('forgewire.tenant', ' expired', true);
    DELETE FROM forgewire.answers a WHERE (a.tenant, a.key) IN (
        SELECT o.tenant, o.key FROM forgewire.answers o WHERE o.expires_at <= now() ORDER BY o.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED);
    PERFORM set_config('forgewire.tenant', me, true);
END $$;
-- +goose StatementEnd

SELECT forgewire.protect(kind) FROM unnest(ARRAY['forgewire.prompts', 'forgewire.prompt_versions', 'forgewire.prompt_labels',
    'forgewire.answers']::regclass[]) AS kind;
-- No tenant's name has a space: only claim_answer takes this one, and finds what nobody may read any more.
CREATE POLICY expired ON forgewire.answers USING (current_setting('forgewire.tenant', true) = ' expired' AND expires_at <= now());

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;
SELECT forgewire.make_tenant_role();

-- +goose Down
DROP TABLE forgewire.answers, forgewire.prompt_labels, forgewire.prompt_versions, forgewire.prompts;
DROP FUNCTION forgewire.claim_answer, forgewire.keep_version, forgewire.make_tenant_role, forgewire.protect, forgewire.tenant_role,
    forgewire.enter, forgewire.leave;
