-- What a channel keeps of its past, and publishes that are not repeated by a retry.

-- +goose Up
-- The newest number whose message was published before a moment, or 0, by halving: numbers are given out in
-- the order of time, and the log has no index on that.
-- +goose StatementBegin
CREATE FUNCTION forgewire.number_before(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    lower bigint; -- everything up to here is older
    upper bigint; -- everything beyond is not
    mid   bigint;
    newest record;
BEGIN
    SELECT l.retired, greatest(l.retired, (SELECT max(m.seq) FROM forgewire.messages m)) INTO lower, upper FROM forgewire.log l;
    WHILE lower < upper LOOP
        mid := lower + (upper - lower + 1) / 2;
        SELECT m.seq, m.published_at INTO newest FROM forgewire.messages m
         WHERE m.seq > lower AND m.seq <= mid ORDER BY m.seq DESC LIMIT 1;
        IF newest.published_at >= moment THEN
            upper := newest.seq - 1;
        ELSE
            lower := mid;
        END IF;
    END LOOP;
    RETURN lower;
END $$;
-- +goose StatementEnd

-- The newest of a channel's messages that is no longer kept, as there are `size` newer ones, or as it was
-- published before `moment`; 0 if all are. A size of 0 and a moment of NULL keep everything.
-- +goose StatementBegin
CREATE FUNCTION forgewire.cut(channel text, size bigint, moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    surplus bigint;
    expired bigint;
BEGIN
    IF size > 0 THEN
        SELECT m.seq INTO surplus FROM forgewire.messages m WHERE m.channel = cut.channel ORDER BY m.seq DESC OFFSET size LIMIT 1;
    END IF;
    IF moment IS NOT NULL THEN
        SELECT max(m.seq) INTO expired FROM forgewire.messages m
         WHERE m.channel = cut.channel AND m.seq <= (SELECT forgewire.number_before(moment));
    END IF;
    RETURN greatest(surplus, expired, 0);
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION forgewire.cut, forgewire.number_before;
