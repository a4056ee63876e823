-- What publishing from SQL costs: the flag is read without a query of its own, and the drain is never compiled.

-- +goose Up

-- Whether the drainer sleeps, and so has to be rung for. An SQL function of one expression is put in place of its
-- call, and its body, unlike a string, is bound to its operators here and not by the caller's search_path.
CREATE FUNCTION forgewire.asleep() RETURNS boolean LANGUAGE sql VOLATILE
RETURN pg_catalog.pg_sequence_last_value('forgewire.awake'::regclass) IS DISTINCT FROM 'forgewire.awake'::regclass::oid::int8;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.ring() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF forgewire.asleep() THEN
        PERFORM pg_catalog.pg_notify('forgewire_bell', '');
    END IF;
END $$;
-- +goose StatementEnd

-- As before, but that an IF is evaluated in place where PERFORM forgewire.ring() started a query: an eighth of
-- what a call costs.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.publish(channel text, data jsonb, idempotency_key text DEFAULT NULL) RETURNS void
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
    IF forgewire.asleep() THEN -- read after the insert, see forgewire.ring
        PERFORM pg_catalog.pg_notify('forgewire_bell', '');
    END IF;
END $$;
-- +goose StatementEnd

-- The settings of the drain make its plans look so dear that PostgreSQL would compile each of them: up to 50 ms of
-- CPU a look where jit is on, as it is by default.
ALTER FUNCTION forgewire.drain(pg_snapshot, int, bigint) SET jit = off;

REVOKE ALL ON FUNCTION forgewire.asleep FROM PUBLIC;

-- +goose Down
SELECT 1;
