-- The log of what /v1 was asked: one row a run, in a partition a day (UTC), dropped whole.

-- +goose Up
CREATE TABLE forgewire.runs (
    id                text        NOT NULL COLLATE "C", -- the run's own; several runs may have got one answer
    started           timestamptz NOT NULL,
    tenant            text        NOT NULL COLLATE "C",
    answer_id         text        NOT NULL,
    key_id            text        NOT NULL, -- '' is the server's own key
    endpoint          text        NOT NULL,
    model             text        NOT NULL,
    upstream          text        NOT NULL,
    status            int         NOT NULL,
    cache             text        NOT NULL,
    request_hash      text        NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    cost_micros       bigint,               -- NULL: nobody knows the price
    saved_micros      bigint      NOT NULL, -- what it would have cost without the cache
    first_token       interval,             -- NULL: there was none
    duration          interval    NOT NULL,
    error             text        NOT NULL,
    PRIMARY KEY (id, started)
) PARTITION BY RANGE (started);

CREATE INDEX runs_tenant_started ON forgewire.runs (tenant, started DESC, id DESC);

-- Makes the partitions of the days on which a run may lie that is recorded now or by tomorrow. Attaching takes a
-- lock that neither readers nor writers conflict with.
-- +goose StatementBegin
CREATE FUNCTION forgewire.make_run_partitions() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day   date;
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 11);
    FOR i IN -2 .. 1 LOOP
        day := today + i;
        name := 'runs_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('forgewire.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE forgewire.%I (LIKE forgewire.runs INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE forgewire.runs ATTACH PARTITION forgewire.%I FOR VALUES FROM (%L) TO (%L)',
                       name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    END LOOP;
END $$;
-- +goose StatementEnd

-- Drops the oldest day if all of it is older than asked. Returns whether it did. Dropping needs the whole table
-- for a moment: where somebody has it, the next call tries again rather than make everybody queue behind us.
-- +goose StatementBegin
CREATE FUNCTION forgewire.retire_runs(older_than timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    oldest text;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 11);
    SELECT min(c.relname::text COLLATE "C") INTO oldest FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'forgewire.runs'::regclass;
    IF oldest IS NULL OR (to_date(substr(oldest, 6), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' > older_than THEN
        RETURN false;
    END IF;
    LOCK TABLE forgewire.runs IN ACCESS EXCLUSIVE MODE NOWAIT;
    EXECUTE format('DROP TABLE forgewire.%I', oldest);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TABLE forgewire.runs;
DROP FUNCTION forgewire.make_run_partitions, forgewire.retire_runs;
DROP FUNCTION IF EXISTS forgewire.retire_days; -- of 00017
