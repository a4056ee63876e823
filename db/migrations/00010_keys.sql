-- API keys of /v1: whose they are, which models they may use, how fast, and for how much money.

-- +goose Up
CREATE TABLE forgewire.keys (
    id                  text        NOT NULL COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z2-7]{16}$'),
    hash                bytea       NOT NULL CHECK (octet_length(hash) = 32), -- SHA-256 of the whole key, which is nowhere
    tenant              text        NOT NULL COLLATE "C" CONSTRAINT tenant_is_1_to_128_printable_ascii CHECK (tenant ~ '^[!-~]{1,128}$'),
    name                text        NOT NULL DEFAULT '' CONSTRAINT name_is_at_most_200_bytes CHECK (octet_length(name) <= 200),
    models              text[]      NOT NULL DEFAULT '{}', -- patterns; none: every model
    requests_per_minute bigint      CHECK (requests_per_minute > 0), -- NULL in these three: no limit
    tokens_per_minute   bigint      CHECK (tokens_per_minute > 0),
    budget_micros       bigint      CHECK (budget_micros >= 0), -- a calendar month (UTC), in millionths of the price table's currency
    shared              boolean     NOT NULL DEFAULT false, -- may share cached answers with other tenants' keys that may
    created_at          timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz,
    revoked_at          timestamptz
);

CREATE INDEX keys_tenant ON forgewire.keys (tenant);

-- What each key has left of its minute, as two token buckets that fill up to a minute's worth. Unlogged: after a
-- crash of the server every bucket is full again, and no write of it waits for the disk.
CREATE UNLOGGED TABLE forgewire.meters (
    key_id   text        NOT NULL COLLATE "C" PRIMARY KEY REFERENCES forgewire.keys ON DELETE CASCADE,
    requests float8      NOT NULL,
    tokens   float8      NOT NULL,
    at       timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What was used, by calendar month (UTC). key_id '' is the server's own key.
CREATE TABLE forgewire.usage (
    tenant            text   NOT NULL COLLATE "C",
    month             date   NOT NULL,
    key_id            text   NOT NULL COLLATE "C",
    requests          bigint NOT NULL,
    cached            bigint NOT NULL, -- requests that no upstream was asked for
    unpriced          bigint NOT NULL, -- requests that an upstream answered, at a price that nobody configured
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cost_micros       bigint NOT NULL, -- of those with a price
    saved_micros      bigint NOT NULL, -- what the cached ones would have cost
    PRIMARY KEY (tenant, month, key_id)
) WITH (fillfactor = 70);

-- +goose StatementBegin
CREATE FUNCTION forgewire.this_month() RETURNS date LANGUAGE sql STABLE AS $$
    SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date
$$;
-- +goose StatementEnd

-- Tells every replica something when the caller's transaction commits, like realtime.Node.Announce.
-- +goose StatementBegin
CREATE FUNCTION forgewire.announce(topic text, data text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('forgewire', E'c\n' || json_build_object('op', 'announce', 'channel', topic,
        'data', replace(encode(convert_to(data, 'UTF8'), 'base64'), E'\n', '')))
$$;
-- +goose StatementEnd

-- Whatever changes a key, in whatever way, every replica forgets what it knew of it. An empty id means all.
-- +goose StatementBegin
CREATE FUNCTION forgewire.key_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM forgewire.announce('keys', CASE WHEN TG_LEVEL = 'ROW' THEN OLD.id ELSE '' END);
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER key_changed AFTER UPDATE OR DELETE ON forgewire.keys FOR EACH ROW EXECUTE FUNCTION forgewire.key_changed();
CREATE TRIGGER keys_gone AFTER TRUNCATE ON forgewire.keys EXECUTE FUNCTION forgewire.key_changed();

-- Takes a key back, for good, when the caller's transaction commits. Returns whether there was one to take back.
-- +goose StatementBegin
CREATE FUNCTION forgewire.revoke_key(id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE forgewire.keys k SET revoked_at = now() WHERE k.id = revoke_key.id AND k.revoked_at IS NULL;
    RETURN FOUND;
END $$;
-- +goose StatementEnd

-- What a bucket holds now: it fills by its limit a minute, up to its limit. Without a limit it is not looked at.
-- +goose StatementBegin
CREATE FUNCTION forgewire.filled(level float8, per_minute bigint, since timestamptz) RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN per_minute IS NULL THEN 0 WHEN level IS NULL THEN per_minute
           ELSE least(per_minute, level + per_minute * greatest(extract(epoch FROM clock_timestamp() - since), 0) / 60) END
$$;
-- +goose StatementEnd

-- Adds up what a replica's keys did since it was last here, and returns what each has left, all replicas
-- together. Debt is paid by waiting, ten minutes at most. Rows are locked in one order, so that replicas do not
-- lock each other out.
-- +goose StatementBegin
CREATE FUNCTION forgewire.settle(key_ids text[], tenants text[], taken_requests bigint[], taken_tokens bigint[],
    requests bigint[], cached bigint[], unpriced bigint[], prompts bigint[], completions bigint[], costs bigint[], saved bigint[],
    OUT key_id text, OUT requests_left float8, OUT tokens_left float8, OUT spent bigint)
RETURNS SETOF record LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO forgewire.usage AS u
        SELECT d.t, forgewire.this_month(), d.id, d.r, d.ca, d.un, d.p, d.co, d.cost, d.s
          FROM unnest(key_ids, tenants, settle.requests, settle.cached, settle.unpriced, prompts, completions, costs, saved)
            AS d(id, t, r, ca, un, p, co, cost, s)
         WHERE d.r > 0 ORDER BY d.t, d.id
        ON CONFLICT ON CONSTRAINT usage_pkey DO UPDATE SET requests = u.requests + EXCLUDED.requests,
            cached = u.cached + EXCLUDED.cached, unpriced = u.unpriced + EXCLUDED.unpriced,
            prompt_tokens = u.prompt_tokens + EXCLUDED.prompt_tokens,
            completion_tokens = u.completion_tokens + EXCLUDED.completion_tokens,
            cost_micros = u.cost_micros + EXCLUDED.cost_micros, saved_micros = u.saved_micros + EXCLUDED.saved_micros;
    -- A meter that is not there yet is full; then all are locked, and only then read.
    INSERT INTO forgewire.meters (key_id, requests, tokens, at)
        SELECT k.id, coalesce(k.requests_per_minute, 0), coalesce(k.tokens_per_minute, 0), clock_timestamp()
          FROM forgewire.keys k WHERE k.id = ANY (key_ids) AND coalesce(k.requests_per_minute, k.tokens_per_minute) IS NOT NULL
         ORDER BY k.id
        ON CONFLICT ON CONSTRAINT meters_pkey DO NOTHING;
    PERFORM FROM forgewire.meters m WHERE m.key_id = ANY (key_ids) ORDER BY m.key_id FOR UPDATE;
    UPDATE forgewire.meters m SET at = clock_timestamp(),
            requests = CASE WHEN k.requests_per_minute IS NULL THEN 0 ELSE
                greatest(forgewire.filled(m.requests, k.requests_per_minute, m.at) - d.r, -10 * k.requests_per_minute) END,
            tokens = CASE WHEN k.tokens_per_minute IS NULL THEN 0 ELSE
                greatest(forgewire.filled(m.tokens, k.tokens_per_minute, m.at) - d.t, -10 * k.tokens_per_minute) END
      FROM forgewire.keys k JOIN unnest(key_ids, taken_requests, taken_tokens) AS d(id, r, t) ON d.id = k.id
     WHERE m.key_id = k.id;
    RETURN QUERY SELECT k.id, coalesce(m.requests, 0), coalesce(m.tokens, 0), coalesce(u.cost_micros, 0)
      FROM forgewire.keys k LEFT JOIN forgewire.meters m ON m.key_id = k.id
      LEFT JOIN forgewire.usage u ON u.tenant = k.tenant AND u.month = forgewire.this_month() AND u.key_id = k.id
     WHERE k.id = ANY (key_ids);
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TABLE forgewire.meters, forgewire.keys, forgewire.usage;
DROP FUNCTION forgewire.settle, forgewire.filled, forgewire.revoke_key, forgewire.key_changed, forgewire.announce, forgewire.this_month;
