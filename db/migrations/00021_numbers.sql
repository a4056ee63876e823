-- A new incarnation's numbers also begin well above the newest message that survived, not only above the clock: where
-- the server's clock was ahead when the last one began, or is behind now, the clock alone would give numbers out twice
-- that were lost with the last commits. 2^26 is more than a minute of the clock, and more than any crash takes back.

-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.begin_incarnation(OUT prev bigint, OUT base bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT greatest(l.retired, (SELECT max(m.seq) FROM forgewire.messages m)) INTO prev FROM forgewire.log l;
    base := greatest(prev, (SELECT last_value FROM forgewire.head), (SELECT max(v.base) FROM forgewire.vouched v)) + (1 << 26);
    base := greatest(base, forgewire.number_from_clock());
    UPDATE forgewire.incarnations i SET last = prev WHERE i.last IS NULL;
    INSERT INTO forgewire.incarnations VALUES (base, NULL);
    DELETE FROM forgewire.vouched;
    INSERT INTO forgewire.vouched VALUES (pg_postmaster_start_time(), 'forgewire.vouched'::regclass, base);
    PERFORM forgewire.make_partition(base);
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION forgewire.begin_incarnation(OUT prev bigint, OUT base bigint) LANGUAGE plpgsql AS $$
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
