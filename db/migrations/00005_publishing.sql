-- What a channel keeps of its past, publishes that a retry does not repeat, and changes of tables.

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

-- The keys of recent publishes, each with the number of the message that it led to. They are written in the
-- transaction that appends the message, so they survive a crash exactly where it does.
CREATE TABLE forgewire.published_keys (
    channel      text        NOT NULL COLLATE "C",
    key          text        NOT NULL COLLATE "C",
    seq          bigint      NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (channel, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX published_keys_published_at ON forgewire.published_keys (published_at);

-- Appends as forgewire.append does, with keys[i] for the message at place keyed[i], counted from 1. If some
-- were published before it appends nothing, and returns their places and the numbers of the first messages:
-- the caller goes on without them. The lock is taken before the keys are looked up, so that of two replicas
-- that get one key at once the second one sees what the first one committed.
-- +goose StatementBegin
CREATE FUNCTION forgewire.append_once(channels text[], datas text[], metas text[], bodies text[], counts int[], others text[],
    keyed int[], keys text[], OUT base bigint, OUT known int[], OUT numbers bigint[]) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1181444979, 1);
    SELECT array_agg(u.place), array_agg(p.seq) INTO known, numbers
      FROM unnest(keyed, keys) AS u(place, key) JOIN forgewire.published_keys p ON p.channel = channels[u.place] AND p.key = u.key;
    IF known IS NOT NULL THEN
        RETURN;
    END IF;
    base := forgewire.append(channels, datas, metas, bodies, counts, others);
    INSERT INTO forgewire.published_keys
        SELECT channels[u.place], u.key, base + u.place - 1, clock_timestamp() FROM unnest(keyed, keys) AS u(place, key);
END $$;
-- +goose StatementEnd

-- A column's value as a part of a channel's name: what encodeURIComponent in a browser makes of it, so a value
-- can neither leave its place (":" would choose a namespace, "#" name a user) nor be one that no channel has.
-- +goose StatementBegin
CREATE FUNCTION forgewire.channel_part(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    c       text;
    encoded text := '';
BEGIN
    IF value IS NULL OR value COLLATE "C" ~ '^[A-Za-z0-9_.!~*''()-]*$' THEN
        RETURN value;
    END IF;
    FOREACH c IN ARRAY string_to_array(left(value, 256), NULL) LOOP
        IF c COLLATE "C" !~ '[A-Za-z0-9_.!~*''()-]' THEN
            c := regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g');
        END IF;
        encoded := encoded || c;
    END LOOP;
    RETURN encoded;
END $$;
-- +goose StatementEnd

-- The channel that a row belongs to; NULL if one of the columns is, or if no channel can have that name. Pieces are text and columns in turn.
-- +goose StatementBegin
CREATE FUNCTION forgewire.channel_of(pieces text[], change jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    channel text := pieces[1];
BEGIN
    FOR i IN 2 .. cardinality(pieces) BY 2 LOOP
        channel := channel || forgewire.channel_part(change ->> pieces[i]) || pieces[i + 1];
    END LOOP;
    RETURN CASE WHEN octet_length(channel) BETWEEN 1 AND 255 THEN channel END;
END $$;
-- +goose StatementEnd

-- Some of a row's columns.
-- +goose StatementBegin
CREATE FUNCTION forgewire.columns_of(change jsonb, columns text[]) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    c    text;
    part jsonb := '{}';
BEGIN
    IF change IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH c IN ARRAY columns LOOP
        part := part || jsonb_build_object(c, change -> c);
    END LOOP;
    RETURN part;
END $$;
-- +goose StatementEnd

-- Whether turning a row of the table into JSON would run a function that somebody else wrote: to_jsonb calls the cast to
-- json that a type has, and whoever may create an enum may create that. Their functions must not run with the
-- rights of publish_change's owner. It takes a while, so publish_change calls it only where somebody has made such a cast.
-- (16384 is the first number of what is not the server's own, 114 is json.)
-- +goose StatementBegin
CREATE FUNCTION forgewire.runs_foreign_cast(relation oid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_roles r ON r.oid = p.proowner
        WHERE c.castsource >= 16384 AND c.casttarget = 114 AND NOT r.rolsuper AND r.rolname <> current_user
          AND c.castsource IN (
            WITH RECURSIVE used(type) AS (
                SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
                UNION
                SELECT part.type FROM used u JOIN pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
                    SELECT t.typelem UNION ALL SELECT t.typbasetype UNION ALL
                    SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS part(type)
                 WHERE part.type <> 0)
            SELECT u.type FROM used u));
END $$;
-- +goose StatementEnd

-- The trigger behind forgewire.publish_changes. Its arguments are the table's schema and name, the channel's
-- pieces, the columns to publish or '', and the key columns. It runs with the rights of whoever owns this
-- function: whoever may write to the table need not be allowed to publish. But whoever may make triggers may also
-- give one of his own any arguments, so nothing in them is run as SQL.
-- Nothing about a change may make the user's write fail: a row that is too large, or that JSON in the
-- database cannot hold (a json column may have \u0000), is published as truncated, and one that has no
-- channel is not published.
-- +goose StatementBegin
CREATE FUNCTION forgewire.publish_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pieces    constant text[] := TG_ARGV[2];
    columns   constant text[] := nullif(TG_ARGV[3], '');
    keys      constant text[] := TG_ARGV[4];
    head      constant jsonb  := jsonb_build_object('operation', TG_OP, 'schema', TG_ARGV[0], 'table', TG_ARGV[1]);
    key_row   text; -- a query for the key columns alone
    new_row   jsonb;
    old_row   jsonb;
    part_new  jsonb;
    part_old  jsonb;
    was       text; -- the channel of the old row
    now       text; -- and of the new one
    truncated boolean := false;
    body      text;
BEGIN
    IF EXISTS (SELECT FROM pg_cast c WHERE c.castsource >= 16384 AND c.casttarget = 114) AND forgewire.runs_foreign_cast(TG_RELID) THEN
        RAISE WARNING 'forgewire: %.% has a type with a cast to json by somebody else than a superuser: its changes are not published',
            TG_ARGV[0], TG_ARGV[1];
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_OP <> 'DELETE' THEN new_row := to_jsonb(NEW); END IF;
        IF TG_OP <> 'INSERT' THEN old_row := to_jsonb(OLD); END IF;
    EXCEPTION WHEN untranslatable_character OR program_limit_exceeded OR invalid_text_representation THEN
        truncated := true;
        SELECT 'SELECT jsonb_build_object(' || coalesce(string_agg(format('%L, ($1).%I', k, k), ', '), '') || ')'
          INTO key_row FROM unnest(keys) AS k;
        IF TG_OP <> 'DELETE' THEN EXECUTE key_row INTO new_row USING NEW; END IF;
        IF TG_OP <> 'INSERT' THEN EXECUTE key_row INTO old_row USING OLD; END IF;
    END;
    IF NOT coalesce(new_row, old_row) ?& keys THEN
        RAISE WARNING 'forgewire: a column of the channel''s template or the key of %.% is gone: call forgewire.publish_changes again',
            TG_ARGV[0], TG_ARGV[1];
        RETURN NULL;
    END IF;
    was := forgewire.channel_of(pieces, old_row);
    now := forgewire.channel_of(pieces, new_row);
    IF was IS NULL AND now IS NULL THEN
        RETURN NULL;
    END IF;
    IF NOT truncated THEN
        IF columns IS NULL THEN
            body := (head || jsonb_build_object('new', new_row, 'old', old_row))::text;
        ELSE
            part_new := forgewire.columns_of(new_row, columns);
            part_old := forgewire.columns_of(old_row, columns);
            IF was = now AND part_new = part_old THEN
                RETURN NULL;
            END IF;
            body := (head || jsonb_build_object('new', part_new, 'old', part_old))::text;
        END IF;
        truncated := octet_length(body) > 1048576;
    END IF;
    IF truncated THEN
        body := (head || jsonb_build_object('truncated', true,
            'new', forgewire.columns_of(new_row, keys), 'old', forgewire.columns_of(old_row, keys)))::text;
        IF octet_length(body) > 1048576 THEN -- a key can be that large where the other of the two rows has a channel
            body := (head || jsonb_build_object('truncated', true, 'new', NULL, 'old', NULL))::text;
        END IF;
    END IF;
    IF was IS NOT NULL THEN
        INSERT INTO forgewire.outbox (channel, data) VALUES (was, body);
    END IF;
    IF now IS DISTINCT FROM was AND now IS NOT NULL THEN -- a row that moves to another channel is news on both
        INSERT INTO forgewire.outbox (channel, data) VALUES (now, body);
    END IF;
    PERFORM forgewire.ring();
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Cuts 'orders:{id}' into {orders:,id,""}: text and columns in turn.
-- +goose StatementBegin
CREATE FUNCTION forgewire.template_pieces(template text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rest   text := template;
    place  text[];
    pieces text[] := '{}';
BEGIN
    LOOP
        place := regexp_match(rest, '^([^{}]*)\{([^{}]+)\}(.*)$');
        EXIT WHEN place IS NULL;
        pieces := pieces || place[1] || place[2];
        rest := place[3];
    END LOOP;
    pieces := pieces || coalesce(rest, '');
    IF coalesce(template, '') = '' OR rest ~ '[{}]' THEN
        RAISE EXCEPTION 'forgewire: % is not a template for a channel such as orders:{id}', coalesce(quote_literal(template), 'NULL');
    END IF;
    FOR i IN 1 .. cardinality(pieces) BY 2 LOOP
        IF pieces[i] COLLATE "C" !~ '^[ -~]{0,255}$' THEN
            RAISE EXCEPTION 'forgewire: a channel''s name is printable ASCII of at most 255 characters, which % is not', quote_literal(template);
        END IF;
    END LOOP;
    RETURN pieces;
END $$;
-- +goose StatementEnd

-- Publishes each change of the table's rows, in the transaction that makes it, on the channel that the
-- template makes of the row's columns. A second call with the same template replaces the first. It needs the
-- right to make triggers on the table, and no other.
-- +goose StatementBegin
CREATE FUNCTION forgewire.publish_changes(target regclass, channel text, columns text[] DEFAULT NULL,
    operations text[] DEFAULT '{INSERT,UPDATE,DELETE}') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pieces  text[];
    wanted  text[];
    keys    text[];
    missing text;
    place   record;
    events  text[];
BEGIN
    SELECT n.nspname, c.relname, c.relkind INTO place FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
    IF place.relkind IS NULL OR place.relkind NOT IN ('r', 'p') OR place.nspname = 'forgewire' THEN
        RAISE EXCEPTION 'forgewire: % is not a table whose changes can be published', target;
    END IF;
    pieces := forgewire.template_pieces(channel);
    SELECT array_agg(DISTINCT upper(o)) INTO events FROM unnest(operations) AS o;
    IF events IS NULL OR NOT events <@ '{INSERT,UPDATE,DELETE}' THEN
        RAISE EXCEPTION 'forgewire: operations are some of INSERT, UPDATE and DELETE, not %', coalesce(operations::text, 'NULL');
    END IF;
    IF cardinality(columns) = 0 THEN
        RAISE EXCEPTION 'forgewire: columns is empty: leave it out for all of them';
    END IF;
    SELECT array_agg(pieces[i]) INTO wanted FROM generate_series(2, cardinality(pieces), 2) AS i;
    SELECT c INTO missing FROM unnest(wanted || columns) AS c
     WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'forgewire: % has no column %', target, coalesce(quote_ident(missing), 'NULL');
    END IF;
    SELECT coalesce(array_agg(DISTINCT k), '{}') INTO keys FROM (
        SELECT unnest(wanted) UNION ALL
        SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = target AND i.indisprimary) AS all_keys(k);
    PERFORM forgewire.unpublish_changes(target, channel);
    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW EXECUTE FUNCTION forgewire.publish_change(%L, %L, %L, %L, %L)',
        forgewire.changes_trigger(channel), array_to_string(events, ' OR '), target, place.nspname, place.relname,
        pieces, coalesce(columns::text, ''), keys);
END $$;
-- +goose StatementEnd

-- The trigger's name tells the template.
-- +goose StatementBegin
CREATE FUNCTION forgewire.changes_trigger(channel text) RETURNS name LANGUAGE sql IMMUTABLE AS $$
    SELECT ('forgewire_changes_' || left(md5(channel), 12))::name
$$;
-- +goose StatementEnd

-- Ends what publish_changes began, for one template, or for all where it is NULL.
-- +goose StatementBegin
CREATE FUNCTION forgewire.unpublish_changes(target regclass, channel text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    existing name;
BEGIN
    FOR existing IN SELECT t.tgname FROM pg_trigger t
         WHERE t.tgrelid = target AND t.tgfoid = 'forgewire.publish_change()'::regprocedure AND t.tgparentid = 0
           AND (channel IS NULL OR t.tgname = forgewire.changes_trigger(channel)) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', existing, target);
    END LOOP;
END $$;
-- +goose StatementEnd

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA forgewire FROM PUBLIC;

-- +goose Down
DROP TABLE forgewire.published_keys;
DROP FUNCTION forgewire.publish_change CASCADE; -- and the triggers on the tables
DROP FUNCTION forgewire.publish_changes, forgewire.unpublish_changes, forgewire.runs_foreign_cast, forgewire.changes_trigger, forgewire.template_pieces,
    forgewire.columns_of, forgewire.channel_of, forgewire.channel_part, forgewire.append_once, forgewire.cut, forgewire.number_before;
