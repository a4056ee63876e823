-- What was asked and answered, of the runs whose key or request asks to keep it: in partitions of their own, which may go
-- earlier than the runs do.

-- +goose Up
ALTER TABLE forgewire.keys ADD COLUMN log_bodies boolean NOT NULL DEFAULT false;

CREATE TABLE forgewire.run_bodies (
    id      text        NOT NULL COLLATE "C", -- the run's
    started timestamptz NOT NULL,
    tenant  text        NOT NULL COLLATE "C",
    request bytea       NOT NULL,
    answer  bytea       NOT NULL,
    cut     boolean     NOT NULL, -- there was more of one of them
    PRIMARY KEY (id, started)
) PARTITION BY RANGE (started);

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.make_run_partitions() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day    date;
    family text;
    name   text;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 11);
    FOREACH family IN ARRAY ARRAY['runs', 'run_bodies'] LOOP
        CONTINUE WHEN to_regclass('forgewire.' || family) IS NULL;
        FOR i IN -2 .. 1 LOOP
            day := today + i;
            name := family || '_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass('forgewire.' || name) IS NOT NULL;
            EXECUTE format('CREATE TABLE forgewire.%I (LIKE forgewire.%I INCLUDING ALL)', name, family);
            EXECUTE format('ALTER TABLE forgewire.%I ATTACH PARTITION forgewire.%I FOR VALUES FROM (%L) TO (%L)',
                           family, name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END LOOP;
    END LOOP;
END $$;
-- +goose StatementEnd

-- Drops the oldest day of a family if all of it is older than asked. Returns whether it did. Dropping needs the whole
-- table for a moment: where somebody has it, the next call tries again rather than make everybody queue behind us.
-- +goose StatementBegin
CREATE FUNCTION forgewire.retire_days(family text, older_than timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    oldest text;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 11);
    SELECT min(c.relname::text COLLATE "C") INTO oldest FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = format('forgewire.%I', family)::regclass;
    IF oldest IS NULL OR (to_date(right(oldest, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' > older_than THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE forgewire.%I IN ACCESS EXCLUSIVE MODE NOWAIT', family);
    EXECUTE format('DROP TABLE forgewire.%I', oldest);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;
-- +goose StatementEnd

-- Replicas of the version before call this one.
CREATE OR REPLACE FUNCTION forgewire.retire_runs(older_than timestamptz) RETURNS boolean LANGUAGE sql AS $$
    SELECT forgewire.retire_days('runs', older_than)
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
-- The functions do without the table, and go with that of the runs.
DROP TABLE forgewire.run_bodies;
ALTER TABLE forgewire.keys DROP COLUMN log_bodies;
