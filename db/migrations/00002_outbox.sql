-- Publishing from SQL: forgewire.publish inserts into an outbox inside the caller's own transaction, and a
-- replica moves what was committed from there to the log. See ARCHITECTURE.md, "Publish from SQL".

-- +goose Up
CREATE TABLE forgewire.outbox (
    xid     xid8   NOT NULL DEFAULT pg_current_xact_id(), -- the transaction that published it
    id      bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- the order inside the transaction
    channel text   NOT NULL,
    data    text   NOT NULL,
    key     text, -- idempotency
    PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The drainer's flag: awake if it is the sequence's own oid, so that one that a dump brought back is not; asleep
-- if it is anything else. A sequence, because setval is seen by everyone at once, whatever their isolation
-- level and snapshot, and is not undone by a rollback.
CREATE SEQUENCE forgewire.awake AS bigint START 1;

-- The functions that users call while they write run with their owner's rights, and every name and operator in
-- them is qualified, so that nothing in the caller's search_path can stand in for them: a SET search_path would
-- cost as much as the insert.
--
-- Rings for the drainer if it sleeps. Whoever calls it has inserted first: that gives the transaction an xid
-- before the flag is read, and the drainer, once it has cleared the flag, waits for every xid that was handed
-- out until then.
-- +goose StatementBegin
CREATE FUNCTION forgewire.ring() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- NULL is a sequence that was never set.
    IF coalesce(pg_catalog.pg_sequence_last_value('forgewire.awake'::pg_catalog.regclass), 0)
       OPERATOR(pg_catalog.<>) 'forgewire.awake'::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int8 THEN
        PERFORM pg_catalog.pg_notify('forgewire_bell', '');
    END IF;
END $$;
-- +goose StatementEnd

-- Publishes data on the channel if and when the caller's transaction commits. It takes no lock that another
-- publish wants and, while the drainer is awake, sends no notification: those serialise commits. Of several
-- with the same key on the channel, within minutes, only the first is published.
-- +goose StatementBegin
CREATE FUNCTION forgewire.publish(channel text, data jsonb, idempotency_key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    body constant pg_catalog.text := data::pg_catalog.text;
BEGIN
    -- Checked here and not by the table: a CHECK is prepared anew for each insert.
    IF channel IS NULL OR pg_catalog.octet_length(channel) OPERATOR(pg_catalog.<) 1 OR pg_catalog.octet_length(channel) OPERATOR(pg_catalog.>) 255
       OR channel COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '[^ -~]' THEN
        RAISE EXCEPTION 'forgewire.publish: a channel is 1 to 255 printable ASCII characters' USING ERRCODE = 'check_violation';
    ELSIF body IS NULL OR pg_catalog.octet_length(body) OPERATOR(pg_catalog.>) 1048576 THEN
        RAISE EXCEPTION 'forgewire.publish: data is JSON of at most 1 MiB' USING ERRCODE = 'check_violation';
    ELSIF pg_catalog.octet_length(idempotency_key) OPERATOR(pg_catalog.<) 1 OR pg_catalog.octet_length(idempotency_key) OPERATOR(pg_catalog.>) 255 THEN
        RAISE EXCEPTION 'forgewire.publish: an idempotency key is 1 to 255 bytes' USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO forgewire.outbox (channel, data, key) VALUES (publish.channel, body, idempotency_key);
    PERFORM forgewire.ring();
END $$;
-- +goose StatementEnd

-- Publishes the same data on several channels.
-- +goose StatementBegin
CREATE FUNCTION forgewire.broadcast(channels text[], data jsonb, idempotency_key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c pg_catalog.text;
BEGIN
    IF channels IS NULL THEN
        RAISE EXCEPTION 'forgewire.broadcast: channels is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    FOREACH c IN ARRAY channels LOOP
        PERFORM forgewire.publish(c, data, idempotency_key);
    END LOOP;
END $$;
-- +goose StatementEnd

-- Takes from the outbox what has become visible since the snapshot `seen`, in the order of its transactions
-- and their own, up to about max_bytes. A row that seen's owner could not see belongs to a transaction that
-- was in progress then (xip) or began later (>= xmax), so no dead row of what was drained before is stepped
-- over, however long somebody's snapshot holds vacuum back (the settings keep it to the index, whatever the statistics
-- say of a table that is empty most of the time). Always returns at least one row, whose channel
-- is NULL where there is nothing; `more` says that another call with the same snapshot has more to take.
-- +goose StatementBegin
CREATE FUNCTION forgewire.take(seen pg_snapshot, max_rows int, max_bytes bigint,
    OUT at pg_snapshot, OUT more boolean, OUT channel text, OUT data text, OUT key text)
RETURNS SETOF record LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH due AS MATERIALIZED (
        (SELECT o.ctid AS place, o.xid, o.id, octet_length(o.data) AS size FROM forgewire.outbox o
          WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(seen))) ORDER BY o.xid, o.id LIMIT max_rows)
        UNION ALL
        (SELECT o.ctid, o.xid, o.id, octet_length(o.data) FROM forgewire.outbox o
          WHERE o.xid >= pg_snapshot_xmax(seen) ORDER BY o.xid, o.id LIMIT max_rows)
    ), fit AS MATERIALIZED (
        SELECT d.place FROM (SELECT place, sum(size) OVER w - size AS before, row_number() OVER w AS n
                               FROM due WINDOW w AS (ORDER BY xid, id)) d
         WHERE d.before < max_bytes AND d.n <= max_rows
    ), taken AS (
        DELETE FROM forgewire.outbox o WHERE o.ctid = ANY (ARRAY(SELECT place FROM fit)) RETURNING o.xid, o.id, o.channel, o.data, o.key
    )
    SELECT pg_current_snapshot(), (SELECT count(*) FROM due) >= max_rows OR (SELECT count(*) FROM fit) < (SELECT count(*) FROM due),
           t.channel, t.data, t.key
      FROM (SELECT 1) AS one LEFT JOIN taken t ON true ORDER BY t.xid, t.id;
END $$;
-- +goose StatementEnd

-- Lets a role publish, and its tables' changes be published, and nothing else: SELECT forgewire.allow_publish('app').
-- +goose StatementBegin
CREATE FUNCTION forgewire.allow_publish(role regrole) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA forgewire TO %s', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION forgewire.publish, forgewire.broadcast, forgewire.publish_changes,
                    forgewire.unpublish_changes, forgewire.publish_change, forgewire.template_pieces, forgewire.changes_trigger TO %s', role);
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TABLE forgewire.outbox;
DROP SEQUENCE forgewire.awake;
DROP FUNCTION forgewire.publish, forgewire.broadcast, forgewire.ring, forgewire.take, forgewire.allow_publish;
