-- The ordered log: one sequence of numbers for every channel, never given out twice, also not after a
-- crash, a failover or a restore has taken the last commits back. See ARCHITECTURE.md, "The log".

-- +goose Up
CREATE TABLE forgewire.log (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch   text    NOT NULL, -- names this log for its life; a client's position is (epoch, number)
    retired bigint  NOT NULL, -- every number up to here has been retired
    bound   bigint  NOT NULL  -- the first number for which no partition is made yet
);

CREATE TABLE forgewire.messages (
    seq          bigint      NOT NULL PRIMARY KEY,
    channel      text        NOT NULL COLLATE "C",
    data         text        NOT NULL, -- JSON, one line, as it was published
    meta         text,                 -- JSON: who published it, and tags
    published_at timestamptz NOT NULL
) PARTITION BY RANGE (seq);

CREATE INDEX messages_channel_seq ON forgewire.messages (channel, seq);

-- The last number given out. A sequence, not a row: setting it leaves no dead row behind for every
-- append to step over while somebody's snapshot holds vacuum back. It is not undone by a rollback, so
-- numbers may have holes; and it may run ahead of what survives, so nobody reads a position from it.
CREATE SEQUENCE forgewire.head AS bigint MINVALUE 0 START 0;

-- Each incarnation of the log numbers its messages from base on. A position is one that this log can
-- vouch for only if it lies in such a range; any other was given out and then lost.
CREATE TABLE forgewire.incarnations (
    base bigint PRIMARY KEY,
    last bigint -- the last that survived of it; NULL: the current one
);

-- The row that vouches for the current incarnation. An UNLOGGED table is emptied by crash recovery, on
-- a standby that is promoted, and in a base backup; the start time tells a cleanly stopped copy of the
-- data folder, the table's own oid a dump restored into the running server, and base a sequence that was
-- restored after the incarnation had begun.
CREATE UNLOGGED TABLE forgewire.vouched (
    started timestamptz NOT NULL,
    relid   oid NOT NULL,
    base    bigint NOT NULL
);

-- 2^20 numbers a second since 2026: more than were ever given out before this moment, and for 270 years
-- fewer than the 2^53 that JavaScript counts exactly.
-- +goose StatementBegin
CREATE FUNCTION forgewire.number_from_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01 00:00Z') * (1 << 20))::bigint
$$;
-- +goose StatementEnd

-- Makes the partition that holds the number, if it is not there. Attaching takes a lock that neither
-- readers nor appends conflict with.
-- +goose StatementBegin
CREATE FUNCTION forgewire.make_partition(number bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    span  constant bigint := 1 << 24;
    lower constant bigint := number - number % span;
    name  constant text := 'messages_' || lower / span;
BEGIN
    IF to_regclass('forgewire.' || name) IS NULL THEN
        EXECUTE format('CREATE TABLE forgewire.%I (LIKE forgewire.messages INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE forgewire.messages ATTACH PARTITION forgewire.%I FOR VALUES FROM (%s) TO (%s)',
                       name, lower, lower + span);
    END IF;
    UPDATE forgewire.log SET bound = lower + span;
END $$;
-- +goose StatementEnd

-- Ends the current incarnation at the last message that survived and begins the next. Its first number
-- is above every one that was ever given out, so no number ever names two messages. The caller holds
-- the append lock.
-- +goose StatementBegin
CREATE FUNCTION forgewire.begin_incarnation(OUT prev bigint, OUT base bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT greatest(l.retired, (SELECT max(m.seq) FROM forgewire.messages m)) INTO prev FROM forgewire.log l;
    base := greatest(prev, (SELECT last_value FROM forgewire.head), (SELECT max(v.base) FROM forgewire.vouched v)) + 1;
    base := greatest(base, forgewire.number_from_clock());
    UPDATE forgewire.incarnations i SET last = prev WHERE i.last IS NULL;
    INSERT INTO forgewire.incarnations VALUES (base, NULL);
    DELETE FROM forgewire.vouched;
    INSERT INTO forgewire.vouched VALUES (pg_postmaster_start_time(), 'forgewire.vouched'::regclass, base);
    PERFORM forgewire.make_partition(base);
END $$;
-- +goose StatementEnd

-- Appends messages in one order for everybody: whoever holds the lock gives out the numbers and commits
-- before the next one does, so the order of numbers is the order of commits. Returns the first number.
-- The notifications ride along: bodies[i] carries the next counts[i] messages (see realtime/notification.go),
-- and each names the number before its first. Others are notifications that share the commit: ephemeral
-- messages.
-- +goose StatementBegin
CREATE FUNCTION forgewire.append(channels text[], datas text[], metas text[], bodies text[], counts int[], others text[])
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    prev    bigint;
    base    bigint;
    last    bigint;
    bound   bigint;
    vouched boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    SELECT h.last_value INTO prev FROM forgewire.head h;
    SELECT l.bound, EXISTS (SELECT FROM forgewire.vouched v
                            WHERE v.started = pg_postmaster_start_time() AND v.relid = 'forgewire.vouched'::regclass
                              AND v.base <= prev + 1)
      INTO bound, vouched FROM forgewire.log l;
    base := prev + 1;
    IF NOT vouched THEN
        SELECT i.prev, i.base INTO prev, base FROM forgewire.begin_incarnation() i;
        SELECT l.bound INTO bound FROM forgewire.log l;
    END IF;
    last := base + cardinality(channels) - 1;
    IF last >= bound THEN -- nobody made it ahead
        PERFORM forgewire.make_partition(last);
    END IF;
    PERFORM setval('forgewire.head', last);
    INSERT INTO forgewire.messages (seq, channel, data, meta, published_at)
        SELECT base + n - 1, c, d, m, clock_timestamp() -- unnest in FROM would be materialised first
          FROM (SELECT generate_series(1, cardinality(channels)) AS n, unnest(channels) AS c, unnest(datas) AS d, unnest(metas) AS m) u;
    last := base;
    FOR i IN 1 .. cardinality(bodies) LOOP
        PERFORM pg_notify('forgewire', 'm ' || prev || ' ' || last || ' ' || counts[i] || E'\n' || bodies[i]);
        last := last + counts[i];
        prev := last - 1;
    END LOOP;
    PERFORM pg_notify('forgewire', o) FROM unnest(others) AS o;
    RETURN base;
END $$;
-- +goose StatementEnd

-- Makes the next partition ahead; and where the current one is older or larger than asked, goes on in the
-- next by leaving out the numbers between; but never those that the clock has not reached, since the next
-- incarnation begins there.
-- +goose StatementBegin
CREATE FUNCTION forgewire.rotate(older_than timestamptz, larger_than bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    span   constant bigint := 1 << 24;
    head   bigint;
    upper  bigint; -- of the current partition
    name   regclass;
    began  timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    SELECT last_value INTO head FROM forgewire.head;
    upper := (head + 1) - (head + 1) % span + span;
    PERFORM forgewire.make_partition(upper);
    name := to_regclass('forgewire.messages_' || (upper - span) / span);
    SELECT m.published_at INTO began FROM forgewire.messages m WHERE m.seq >= upper - span AND m.seq < upper ORDER BY m.seq LIMIT 1;
    IF upper > forgewire.number_from_clock() OR began IS NULL OR (began >= older_than AND pg_total_relation_size(name) <= larger_than) THEN
        RETURN false;
    END IF;
    PERFORM setval('forgewire.head', upper - 1);
    PERFORM forgewire.make_partition(upper + span);
    RETURN true;
END $$;
-- +goose StatementEnd

-- Retires the oldest partition if all of it is older than asked, or if the log is larger than asked. Never
-- the current one. Returns whether it did. Dropping needs the whole table for a moment: the append lock
-- keeps appends away, and where a reader or a dump has it, the next call tries again rather than make
-- everybody queue behind us.
-- +goose StatementBegin
CREATE FUNCTION forgewire.retire(older_than timestamptz, larger_than bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    span    constant bigint := 1 << 24;
    current bigint;
    oldest  bigint;
    total   bigint;
    newest  record;
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    SELECT (last_value + 1) / span INTO current FROM forgewire.head;
    SELECT min(substr(c.relname, 10)::bigint), sum(pg_total_relation_size(c.oid)) INTO oldest, total
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'forgewire.messages'::regclass;
    IF oldest IS NULL OR oldest >= current THEN
        RETURN false;
    END IF;
    SELECT m.seq, m.published_at INTO newest FROM forgewire.messages m
     WHERE m.seq >= oldest * span AND m.seq < (oldest + 1) * span ORDER BY m.seq DESC LIMIT 1;
    IF newest.published_at >= older_than AND total <= larger_than THEN
        RETURN false;
    END IF;
    LOCK TABLE forgewire.messages IN ACCESS EXCLUSIVE MODE NOWAIT;
    UPDATE forgewire.log SET retired = greatest(retired, newest.seq);
    EXECUTE format('DROP TABLE forgewire.messages_%s', oldest);
    DELETE FROM forgewire.incarnations i WHERE i.last < (SELECT retired FROM forgewire.log);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;
-- +goose StatementEnd

-- The first incarnation begins a quarter of an hour behind the clock, so that it may leave partitions early.
INSERT INTO forgewire.log (epoch, retired, bound)
    SELECT substr(md5(gen_random_uuid()::text), 1, 12), forgewire.number_from_clock() - (1 << 30), 0;
SELECT setval('forgewire.head', retired) FROM forgewire.log;
SELECT forgewire.make_partition(retired + 1) FROM forgewire.log;
INSERT INTO forgewire.incarnations SELECT retired + 1, NULL FROM forgewire.log;
INSERT INTO forgewire.vouched SELECT pg_postmaster_start_time(), 'forgewire.vouched'::regclass, retired + 1 FROM forgewire.log;

-- +goose Down
DROP TABLE forgewire.messages, forgewire.log, forgewire.incarnations, forgewire.vouched;
DROP SEQUENCE forgewire.head;
DROP FUNCTION forgewire.append, forgewire.rotate, forgewire.retire, forgewire.begin_incarnation, forgewire.make_partition, forgewire.number_from_clock;
