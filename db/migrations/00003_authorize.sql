-- Who may do what: tokens that are taken back, and the database as the one who decides on channels.

-- +goose Up

-- Tokens of a user that were issued before a moment are refused on every replica. The user '' is everybody
-- with a token.
CREATE TABLE forgewire.revocations (
    user_id text        NOT NULL COLLATE "C" PRIMARY KEY CONSTRAINT user_id_is_at_most_1000_bytes CHECK (octet_length(user_id) <= 1000),
    before  timestamptz NOT NULL
);

-- Takes back a user's tokens that were issued before a moment, and ends the connections that were made with
-- them, when the caller's transaction commits. Every replica holds the revocations in memory, so there are
-- at most `most` of them: beyond that the oldest is taken to mean everybody, which never lets in a token that
-- was taken back.
-- +goose StatementBegin
CREATE FUNCTION forgewire.revoke(user_id text, before timestamptz DEFAULT now(), most int DEFAULT 100000) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest timestamptz;
BEGIN
    IF coalesce(user_id, '') = '' OR before IS NULL OR NOT isfinite(before) OR before > clock_timestamp() + interval '1 minute' THEN
        RAISE EXCEPTION 'forgewire.revoke: a user, and a moment that is not in the future, are needed' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE forgewire.revocations IN SHARE ROW EXCLUSIVE MODE; -- revocations are rare, and counted
    INSERT INTO forgewire.revocations AS r VALUES (revoke.user_id, revoke.before)
        ON CONFLICT ON CONSTRAINT revocations_pkey DO UPDATE SET before = greatest(r.before, EXCLUDED.before);
    PERFORM pg_notify('forgewire', E'c\n' || json_build_object('op', 'revoke', 'user', revoke.user_id,
        'micros', (extract(epoch FROM revoke.before) * 1000000)::bigint));
    IF (SELECT count(*) FROM forgewire.revocations r WHERE r.user_id <> '') <= most THEN
        RETURN;
    END IF;
    SELECT max(o.before) INTO oldest FROM (SELECT r.before FROM forgewire.revocations r WHERE r.user_id <> ''
        ORDER BY r.before LIMIT greatest(most / 10, 1)) o; -- a tenth, so that not every further one does this
    DELETE FROM forgewire.revocations r WHERE r.user_id <> '' AND r.before <= oldest;
    INSERT INTO forgewire.revocations AS r VALUES ('', oldest)
        ON CONFLICT ON CONSTRAINT revocations_pkey DO UPDATE SET before = greatest(r.before, EXCLUDED.before);
    PERFORM pg_notify('forgewire', E'c\n' || json_build_object('op', 'revoke', 'user', '',
        'micros', (extract(epoch FROM oldest) * 1000000)::bigint));
END $$;
-- +goose StatementEnd

-- Decides for namespaces with "authorize": true. Replace it with CREATE OR REPLACE FUNCTION. NULL means no; an
-- interval means yes, and that the answer may be remembered for that long. action is subscribe (also history
-- and presence) or publish; user_id is '' for a client without a token. The token's claims, as JSON, are in
-- current_setting('request.jwt.claims'), where row-level policies written for PostgREST look for them.
-- +goose StatementBegin
CREATE FUNCTION forgewire.authorize(user_id text, channel text, action text) RETURNS interval LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE WARNING 'forgewire.authorize refuses everything until it is replaced (CREATE OR REPLACE FUNCTION forgewire.authorize)';
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Asks forgewire.authorize, with the claims in place until the end of the transaction, and returns seconds:
-- one statement, so that it is one round trip and works through every pooler.
-- +goose StatementBegin
CREATE FUNCTION forgewire.ask_authorize(claims text, user_id text, channel text, action text) RETURNS float8 LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.jwt.claims', claims, true);
    RETURN extract(epoch FROM forgewire.authorize(user_id, channel, action));
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TABLE forgewire.revocations;
DROP FUNCTION forgewire.revoke, forgewire.authorize, forgewire.ask_authorize;
