-- Who is where: the replicas that have clients, the members of channels, and what history_remove hid.

-- +goose Up

-- A replica has a row while it has clients, and renews it: the row is a lease. What it owns is there as long
-- as the lease is. A survivor marks a lease that ended as retired, once, and tells of those who left with it;
-- the mark stays for a while, so that a replica that was only asleep knows that its members were said to be
-- gone. Both tables are unlogged: whoever is alive writes its rows again after a crash.
CREATE UNLOGGED TABLE forgewire.replicas (
    id      text        NOT NULL PRIMARY KEY, -- of one run of one process
    name    text        NOT NULL,
    expires timestamptz NOT NULL,
    retired boolean     NOT NULL DEFAULT false
);

CREATE UNLOGGED TABLE forgewire.presence (
    channel   text NOT NULL COLLATE "C",
    client    text NOT NULL COLLATE "C",
    replica   text NOT NULL,
    "user"    text NOT NULL COLLATE "C",
    conn_info text, -- JSON
    chan_info text, -- JSON
    PRIMARY KEY (channel, client)
);

CREATE INDEX presence_replica ON forgewire.presence (replica);

-- Writes what changed on one replica, renews its lease, and sends the notifications that tell of it. `was` is
-- what had become of the lease: held, new (there was none) or retired. `members` is how many rows the replica
-- has, if it asked: it compares them with those that it knows of.
-- +goose StatementBegin
CREATE FUNCTION forgewire.presence_write(self text, label text, lease interval,
    add_channels text[], add_clients text[], add_users text[], add_conn_infos text[], add_chan_infos text[],
    drop_channels text[], drop_clients text[], events text[], counted boolean,
    OUT was text, OUT members bigint) LANGUAGE plpgsql AS $$
DECLARE
    mine forgewire.replicas;
BEGIN
    SELECT r.* INTO mine FROM forgewire.replicas r WHERE r.id = self FOR UPDATE;
    IF mine.id IS NULL THEN
        was := 'new';
        INSERT INTO forgewire.replicas VALUES (self, label, clock_timestamp() + lease)
            ON CONFLICT (id) DO UPDATE SET expires = excluded.expires, retired = false;
        -- Rows without a lease are nobody's; a replica that is alive writes its own again.
        DELETE FROM forgewire.presence p WHERE NOT EXISTS (SELECT FROM forgewire.replicas r WHERE r.id = p.replica);
    ELSIF mine.retired THEN
        was := 'retired';
        UPDATE forgewire.replicas r SET expires = clock_timestamp() + lease, retired = false WHERE r.id = self;
    ELSE
        was := 'held';
        IF mine.expires < clock_timestamp() + lease * 0.7 THEN -- not with each write: that would only make dead rows
            UPDATE forgewire.replicas r SET expires = clock_timestamp() + lease WHERE r.id = self;
        END IF;
    END IF;
    DELETE FROM forgewire.presence p USING unnest(drop_channels, drop_clients) AS d(channel, client)
     WHERE p.channel = d.channel AND p.client = d.client AND p.replica = self;
    INSERT INTO forgewire.presence AS p (channel, client, replica, "user", conn_info, chan_info)
        SELECT a.channel, a.client, self, a.usr, a.conn_info, a.chan_info
          FROM unnest(add_channels, add_clients, add_users, add_conn_infos, add_chan_infos) AS a(channel, client, usr, conn_info, chan_info)
        ON CONFLICT (channel, client) DO UPDATE
           SET replica = excluded.replica, "user" = excluded."user", conn_info = excluded.conn_info, chan_info = excluded.chan_info
         WHERE (p.replica, p."user", p.conn_info, p.chan_info)
               IS DISTINCT FROM (excluded.replica, excluded."user", excluded.conn_info, excluded.chan_info);
    IF counted THEN
        SELECT count(*) INTO members FROM forgewire.presence p WHERE p.replica = self;
    END IF;
    PERFORM pg_notify('forgewire', e) FROM unnest(events) AS e;
END $$;
-- +goose StatementEnd

-- Retires every lease that ended and returns whoever left with it. Of several that call it at once, each lease
-- is retired by one.
-- +goose StatementBegin
CREATE FUNCTION forgewire.presence_retire() RETURNS SETOF forgewire.presence LANGUAGE sql AS $$
    DELETE FROM forgewire.replicas WHERE retired AND expires < clock_timestamp() - interval '1 day';
    WITH dead AS (
        UPDATE forgewire.replicas SET retired = true WHERE id IN (
            SELECT id FROM forgewire.replicas WHERE expires < clock_timestamp() AND NOT retired FOR UPDATE SKIP LOCKED)
        RETURNING id
    )
    DELETE FROM forgewire.presence p USING dead d WHERE p.replica = d.id RETURNING p.*;
$$;
-- +goose StatementEnd

-- The log never deletes single rows, so history_remove hides: history and recovery of the channel begin after
-- this number. A row is of use until the number is retired.
CREATE TABLE forgewire.hidden (
    channel text   NOT NULL COLLATE "C" PRIMARY KEY,
    upto    bigint NOT NULL
);

CREATE INDEX hidden_upto ON forgewire.hidden (upto);

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP FUNCTION forgewire.presence_write, forgewire.presence_retire;
DROP TABLE forgewire.presence, forgewire.replicas, forgewire.hidden;
