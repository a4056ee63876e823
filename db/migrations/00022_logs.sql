-- Channels spread over several logs, each a database of its own: what they all know of each other, and the way that
-- messages which were published here from SQL take to the log that has their channel. See docs/scaling.md. Where there is
-- one log, all tables here are empty and none of the triggers exists.

-- +goose Up

-- The set of logs that this one belongs to. Each of them has the same, with another place.
CREATE TABLE forgewire.log_set (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation bigint  NOT NULL, -- of sets, counted
    place      int     NOT NULL, -- this log's; 0 is the first
    epochs     text[]  NOT NULL  -- of the logs, in their order
);

-- What was published here on channels that other logs have, as the outbox is for those of this one.
CREATE TABLE forgewire.forwarding (
    xid     xid8   NOT NULL,
    id      bigint NOT NULL,
    log     int    NOT NULL, -- the place of the log that has the channel
    channel text   NOT NULL,
    data    text   NOT NULL,
    key     text,
    PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The same after their transactions have committed, in that order. The two numbers together are never given out twice: a
-- failover that takes the last commits back begins a new incarnation.
CREATE TABLE forgewire.forwards (
    log         int    NOT NULL,
    incarnation bigint NOT NULL,
    number      bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    channel     text   NOT NULL,
    data        text   NOT NULL,
    key         text,
    PRIMARY KEY (log, incarnation, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- How far another log's forwards were taken in here. It is written in the transaction that appends them, so that each is
-- appended once, whatever happened to the word of it.
CREATE TABLE forgewire.received (
    source      text   NOT NULL PRIMARY KEY, -- the other log's epoch
    incarnation bigint NOT NULL,
    number      bigint NOT NULL
);

-- Which of so many logs has a channel: see realtime/spread.go, which must say the same. Every name is qualified, as a
-- user's transaction calls it: see 00002_outbox.sql.
-- +goose StatementBegin
CREATE FUNCTION forgewire.place_of(channel text, logs int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT p FROM pg_catalog.generate_series(0, logs OPERATOR(pg_catalog.-) 1) AS p
     ORDER BY pg_catalog.md5(p::pg_catalog.text OPERATOR(pg_catalog.||) ':'::pg_catalog.text OPERATOR(pg_catalog.||) channel)
              COLLATE pg_catalog."C" DESC LIMIT 1
$$;
-- +goose StatementEnd

-- Before each insert into the outbox of a log of several: what belongs to another log takes its own way. Its arguments are
-- how many logs there are, and the place of this one. Only the first has an outbox that is drained.
-- +goose StatementBegin
CREATE FUNCTION forgewire.divert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    place pg_catalog.int4;
BEGIN
    IF TG_ARGV[1] OPERATOR(pg_catalog.<>) '0'::pg_catalog.text THEN
        RAISE EXCEPTION 'forgewire.publish: this database is log % of several: publish in the first, that of DATABASE_URL', TG_ARGV[1]
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    place := forgewire.place_of(NEW.channel, TG_ARGV[0]::pg_catalog.int4);
    IF place OPERATOR(pg_catalog.=) 0 THEN
        RETURN NEW;
    END IF;
    INSERT INTO forgewire.forwarding (xid, id, log, channel, data, key) VALUES (NEW.xid, NEW.id, place, NEW.channel, NEW.data, NEW.key);
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Before each append to a log of several: whoever appends must know the set of now, as only then he knows which log has
-- the channel. One who does not names no generation, or another.
-- +goose StatementBegin
CREATE FUNCTION forgewire.check_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('forgewire.generation', true), '') <> (SELECT s.generation::text FROM forgewire.log_set s) THEN
        RAISE EXCEPTION 'the channel may have moved: whoever appends does not know the set of logs of now' USING ERRCODE = 'FW001';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- The functions of before, for whoever knows the set.
-- +goose StatementBegin
CREATE FUNCTION forgewire.append_at(generation bigint, channels text[], datas text[], metas text[], bodies text[], counts int[], others text[])
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('forgewire.generation', generation::text, true);
    RETURN forgewire.append(channels, datas, metas, bodies, counts, others);
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION forgewire.append_once_at(generation bigint, channels text[], datas text[], metas text[], bodies text[], counts int[], others text[],
    keyed int[], keys text[], OUT base bigint, OUT known int[], OUT numbers bigint[]) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('forgewire.generation', generation::text, true);
    SELECT o.base, o.known, o.numbers INTO base, known, numbers
      FROM forgewire.append_once(channels, datas, metas, bodies, counts, others, keyed, keys) o;
END $$;
-- +goose StatementEnd

-- The current incarnation of this log, which is begun if the last one is over. The caller holds the append lock.
-- +goose StatementBegin
CREATE FUNCTION forgewire.current_incarnation() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    base bigint;
BEGIN
    SELECT v.base INTO base FROM forgewire.vouched v, forgewire.head h
     WHERE v.started = pg_postmaster_start_time() AND v.relid = 'forgewire.vouched'::regclass AND v.base <= h.last_value + 1;
    IF base IS NULL THEN
        SELECT i.base INTO base FROM forgewire.begin_incarnation() i;
        PERFORM setval('forgewire.head', base - 1);
    END IF;
    RETURN base;
END $$;
-- +goose StatementEnd

-- Numbers what has become visible in `forwarding` since the snapshot `seen`, as forgewire.drain does with the outbox, and
-- returns how many messages that were.
-- +goose StatementBegin
CREATE FUNCTION forgewire.sort_out(seen pg_snapshot, max_rows int) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    places tid[];
    base   bigint;
    n      int;
BEGIN
    places := ARRAY(
        (SELECT f.ctid FROM forgewire.forwarding f WHERE f.xid = ANY (ARRAY(SELECT pg_snapshot_xip(seen))) ORDER BY f.xid, f.id)
        UNION ALL
        (SELECT f.ctid FROM forgewire.forwarding f WHERE f.xid >= pg_snapshot_xmax(seen) ORDER BY f.xid, f.id) LIMIT max_rows);
    IF cardinality(places) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    base := forgewire.current_incarnation();
    WITH taken AS (DELETE FROM forgewire.forwarding f WHERE f.ctid = ANY (places) RETURNING f.*)
    INSERT INTO forgewire.forwards (log, incarnation, channel, data, key)
        SELECT t.log, base, t.channel, t.data, t.key FROM taken t ORDER BY t.xid, t.id;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> cardinality(places) THEN -- the drain lock sees to that
        RAISE EXCEPTION 'forgewire.sort_out: somebody else took from it' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN n;
END $$;
-- +goose StatementEnd

-- forgewire.drain for the first log of several; sorted is how many messages wait to be forwarded now. seen_now is from before
-- anything is read: older is safe.
-- +goose StatementBegin
CREATE FUNCTION forgewire.drain_at(generation bigint, seen pg_snapshot, max_rows int, max_bytes bigint,
    OUT seen_now pg_snapshot, OUT more boolean, OUT moved int, OUT sorted int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('forgewire.generation', generation::text, true);
    SELECT d.seen_now, d.more, d.moved INTO seen_now, more, moved FROM forgewire.drain(seen, max_rows, max_bytes) d;
    sorted := forgewire.sort_out(seen, max_rows);
    more := more OR sorted = max_rows;
END $$;
-- +goose StatementEnd

-- Makes this log one of a set, at a place: whoever appends must know it from now on.
-- +goose StatementBegin
CREATE FUNCTION forgewire.join_logs(generation bigint, place int, epochs text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER divert BEFORE INSERT ON forgewire.outbox FOR EACH ROW EXECUTE FUNCTION forgewire.divert(%L, %L)',
                   cardinality(epochs), place);
    IF place <> 0 AND EXISTS (SELECT FROM forgewire.outbox) THEN
        RAISE EXCEPTION 'messages were published here from SQL that are in no log yet: run a replica on this database until they are'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    INSERT INTO forgewire.log_set AS s (generation, place, epochs) VALUES (join_logs.generation, join_logs.place, join_logs.epochs)
        ON CONFLICT (one) DO UPDATE SET generation = excluded.generation, place = excluded.place, epochs = excluded.epochs;
    UPDATE forgewire.log l SET epoch = epochs[place + 1] WHERE l.epoch <> epochs[place + 1];
    CREATE OR REPLACE TRIGGER check_generation BEFORE INSERT ON forgewire.messages
        FOR EACH STATEMENT EXECUTE FUNCTION forgewire.check_generation();
END $$;
-- +goose StatementEnd

-- Sends what waits here, and whose channel has moved with the set of logs, on its new way. The caller has locked the tables,
-- and has taken away from `forwards` what was received elsewhere.
-- +goose StatementBegin
CREATE FUNCTION forgewire.reroute(logs int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH moved AS (DELETE FROM forgewire.forwards f WHERE forgewire.place_of(f.channel, logs) <> f.log RETURNING f.*)
    INSERT INTO forgewire.outbox (channel, data, key) SELECT m.channel, m.data, m.key FROM moved m ORDER BY m.incarnation, m.number;
    WITH moved AS (DELETE FROM forgewire.forwarding f WHERE forgewire.place_of(f.channel, logs) <> f.log
                   AND f.xid <> pg_current_xact_id() RETURNING f.*)
    INSERT INTO forgewire.outbox (channel, data, key) SELECT m.channel, m.data, m.key FROM moved m ORDER BY m.xid, m.id;
    WITH moved AS (DELETE FROM forgewire.outbox o WHERE forgewire.place_of(o.channel, logs) <> 0 RETURNING o.*)
    INSERT INTO forgewire.outbox (channel, data, key) SELECT m.channel, m.data, m.key FROM moved m ORDER BY m.xid, m.id;
    PERFORM forgewire.ring();
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TRIGGER IF EXISTS divert ON forgewire.outbox;
DROP TRIGGER IF EXISTS check_generation ON forgewire.messages;
DROP FUNCTION forgewire.reroute, forgewire.join_logs, forgewire.drain_at, forgewire.sort_out, forgewire.current_incarnation, forgewire.append_once_at,
    forgewire.append_at, forgewire.check_generation, forgewire.divert, forgewire.place_of;
DROP TABLE forgewire.received, forgewire.forwards, forgewire.forwarding, forgewire.log_set;
