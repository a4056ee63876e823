-- Which channels are occupied, over all replicas, for webhooks. The queue that the events are delivered from is
-- river's own (river_job and its like), which db.Migrate brings up to date before these migrations.

-- +goose Up

-- Which replicas have subscribers of which channels. The row itself says that the channel is occupied: it is
-- inserted with the event "occupied" and deleted with the event "vacated", so the two alternate.
CREATE TABLE forgewire.occupancy (
    channel  text   NOT NULL PRIMARY KEY COLLATE "C",
    replicas text[] NOT NULL
);
CREATE INDEX occupancy_vacated ON forgewire.occupancy (channel) WHERE replicas = '{}';

-- The leases of the replicas that occupy something. The share of one whose lease has ended is nobody's.
CREATE TABLE forgewire.occupants (
    replica    text        NOT NULL PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Says what has changed on the replica `me`: the channels that it has subscribers of now (come) and has no
-- more (gone); with `everything`, come is all that it has. Renews its lease if it has something (holds), and
-- takes away the share of replicas whose lease has ended. A lock that is held until the commit makes the
-- order of events the order of commits. Returns what became occupied and vacated, at what time, and in how many
-- seconds somebody else's lease ends. With known = false nothing was done: the lease of `me` had ended, and
-- everything must be said again; first says that this is a new lease.
-- +goose StatementBegin
CREATE FUNCTION forgewire.occupy(me text, come text[], gone text[], everything boolean, holds boolean, lease interval,
    OUT known boolean, OUT first boolean, OUT occupied text[], OUT vacated text[], OUT at timestamptz, OUT next double precision)
LANGUAGE plpgsql AS $$
DECLARE
    ended bigint;
BEGIN
    -- A replica that freezes between here and its commit must not stop the others.
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    PERFORM pg_advisory_xact_lock(1181444979, 6);
    at := clock_timestamp();
    first := holds AND NOT EXISTS (SELECT FROM forgewire.occupants o WHERE o.replica = me AND o.expires_at > at);
    known := everything OR NOT first;
    IF NOT known THEN
        RETURN;
    END IF;
    IF holds THEN
        INSERT INTO forgewire.occupants AS o VALUES (me, at + lease)
            ON CONFLICT (replica) DO UPDATE SET expires_at = excluded.expires_at;
    ELSE
        DELETE FROM forgewire.occupants o WHERE o.replica = me;
    END IF;

    -- What comes is added before what is gone is taken away: a channel that moves stays occupied.
    occupied := ARRAY(SELECT c FROM unnest(come) AS c WHERE NOT EXISTS (SELECT FROM forgewire.occupancy o WHERE o.channel = c));
    INSERT INTO forgewire.occupancy AS o SELECT c, ARRAY[me] FROM unnest(come) AS c
        ON CONFLICT (channel) DO UPDATE SET replicas = array_append(array_remove(o.replicas, me), me);
    UPDATE forgewire.occupancy o SET replicas = array_remove(o.replicas, me) WHERE o.channel = ANY (gone);
    IF everything THEN
        UPDATE forgewire.occupancy o SET replicas = array_remove(o.replicas, me)
         WHERE me = ANY (o.replicas) AND NOT EXISTS (SELECT FROM unnest(come) AS c WHERE c = o.channel);
    END IF;

    DELETE FROM forgewire.occupants o WHERE o.expires_at <= at;
    GET DIAGNOSTICS ended = ROW_COUNT;
    IF ended > 0 OR everything THEN
        UPDATE forgewire.occupancy o
           SET replicas = ARRAY(SELECT r FROM unnest(o.replicas) AS r WHERE EXISTS (SELECT FROM forgewire.occupants p WHERE p.replica = r))
         WHERE EXISTS (SELECT FROM unnest(o.replicas) AS r WHERE NOT EXISTS (SELECT FROM forgewire.occupants p WHERE p.replica = r));
    END IF;
    WITH empty AS (DELETE FROM forgewire.occupancy o WHERE o.replicas = '{}' RETURNING o.channel)
    SELECT coalesce(array_agg(e.channel), '{}') INTO vacated FROM empty e;
    next := extract(epoch FROM (SELECT min(o.expires_at) FROM forgewire.occupants o WHERE o.replica <> me) - at);
END $$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION forgewire.occupy FROM PUBLIC;

-- +goose Down
DROP FUNCTION forgewire.occupy;
DROP TABLE forgewire.occupants, forgewire.occupancy;
