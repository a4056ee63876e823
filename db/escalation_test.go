package db_test

import (
	"context"
	"testing"
)

// A role that may do nothing but publish cannot make the functions that run with their owner's rights run anything
// else: neither by the arguments of a trigger of its own, nor by what its types do when a row becomes JSON, nor by
// names that it puts before the system's.
func TestPublishersCannotEscalate(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE ROLE escalating_test; SELECT forgewire.allow_publish('escalating_test'); CREATE SCHEMA lair AUTHORIZATION escalating_test;
		CREATE TABLE public.loot (who text)`)
	t.Cleanup(func() {
		if _, err := o.conn.Exec(context.Background(), `RESET ROLE; DROP OWNED BY escalating_test CASCADE; DROP ROLE escalating_test`); err != nil {
			t.Error(err)
		}
	})
	free := func(what string) {
		t.Helper()
		var n int
		if err := o.conn.QueryRow(t.Context(), `SELECT count(*) FROM public.loot`).Scan(&n); err != nil || n > 0 {
			t.Errorf("%s: %d rows that only the owner can write (%v)", what, n, err)
		}
		o.exec(`TRUNCATE public.loot`)
	}

	// SQL as a trigger's argument. The json value is one that jsonb refuses, which is when the key columns are asked for.
	o.exec(`SET ROLE escalating_test; CREATE TABLE lair.one (id int, e json);
		CREATE TRIGGER own AFTER INSERT ON lair.one FOR EACH ROW EXECUTE FUNCTION
			forgewire.publish_change('lair', 'one', '{x}', '', '{id}', 'INSERT INTO public.loot VALUES (current_user) RETURNING ''{"id":1}''::jsonb')`)
	o.try(`INSERT INTO lair.one VALUES (1, '"\u0000"')`)
	o.exec(`RESET ROLE`)
	free("SQL in a trigger's argument")
	for _, keys := range []string{`{"id''), current_user) --"}`, `{"id\"), (INSERT INTO public.loot VALUES (1)) --"}`} {
		o.exec(`SET ROLE escalating_test; DROP TRIGGER own ON lair.one;
			CREATE TRIGGER own AFTER INSERT ON lair.one FOR EACH ROW EXECUTE FUNCTION forgewire.publish_change('lair', 'one', '{x}', '', '` + keys + `')`)
		o.try(`INSERT INTO lair.one VALUES (1, '"\u0000"')`)
		o.exec(`RESET ROLE`)
		free("SQL in the name of a column")
	}

	// A cast to json, of the column's type itself and below it.
	o.exec(`SET ROLE escalating_test; CREATE TYPE lair.evil AS ENUM ('a'); CREATE DOMAIN lair.veiled AS lair.evil; CREATE TYPE lair.holder AS (inner_one lair.veiled[]);
		CREATE FUNCTION lair.run(lair.evil) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.loot VALUES (current_user); RETURN '1'; EXCEPTION WHEN insufficient_privilege THEN RETURN '2'; END $$;
		CREATE CAST (lair.evil AS json) WITH FUNCTION lair.run(lair.evil);
		CREATE TABLE lair.two (id int, x lair.evil); CREATE TABLE lair.three (id int, x lair.holder); CREATE TABLE lair.harmless (id int);
		SELECT forgewire.publish_changes('lair.two', 'two:{id}'); SELECT forgewire.publish_changes('lair.three', 'three:{id}', '{x}');
		SELECT forgewire.publish_changes('lair.harmless', 'harmless:{id}')`)
	o.try(`INSERT INTO lair.two VALUES (1, 'a')`)
	o.try(`INSERT INTO lair.three VALUES (1, ROW(ARRAY['a']::lair.veiled[]))`)
	o.exec(`RESET ROLE`)
	free("a cast to json")
	o.expect(`INSERT INTO lair.harmless VALUES (1)`, "harmless:1", `{"operation":"INSERT","schema":"lair","table":"harmless","new":{"id":1},"old":null}`)

	// Operators, functions and tables before the system's.
	o.exec(`SET ROLE escalating_test; SET search_path = lair, pg_catalog;
		CREATE FUNCTION lair.octet_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN 1; END $$;
		CREATE FUNCTION lair.less(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN false; END $$;
		CREATE OPERATOR lair.< (LEFTARG = int, RIGHTARG = int, FUNCTION = lair.less);
		CREATE FUNCTION lair.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); END $$`)
	o.try(`SELECT forgewire.publish('a', '1', 'k'); SELECT forgewire.broadcast('{a,b}', '1')`)
	o.try(`INSERT INTO lair.harmless VALUES (2)`)
	o.exec(`RESET ROLE; RESET search_path`)
	free("a search_path")
}

// A function that a later migration adds is nobody's either, and one that runs with its owner's rights cannot be led
// astray by the caller's search_path.
func TestFunctionsAreNobodys(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	rows, err := o.conn.Query(t.Context(), `SELECT p.oid::regprocedure::text, p.prosecdef, coalesce(array_to_string(p.proconfig, ' '), '')
		FROM pg_proc p WHERE p.pronamespace = 'forgewire'::regnamespace
		  AND (p.prosecdef OR EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0))`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	// These have no SET, which costs as much as the insert that they make, or come before: all that they name is qualified.
	qualified := map[string]bool{"forgewire.publish(text,jsonb,text)": true, "forgewire.broadcast(text[],jsonb,text)": true, "forgewire.divert()": true}
	for rows.Next() {
		var name, settings string
		var definer bool
		if err := rows.Scan(&name, &definer, &settings); err != nil {
			t.Fatal(err)
		}
		switch {
		case !definer:
			t.Errorf("everybody may call %s", name)
		case settings != "search_path=pg_catalog, pg_temp" && !qualified[name]:
			t.Errorf("%s runs with its owner's rights and the caller's search_path", name)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// try runs what may fail: only what it leaves behind counts.
func (o *outbox) try(sql string) { _, _ = o.conn.Exec(o.t.Context(), sql) }
