package db_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"forgewire/db/dbtest"
)

// outbox runs statements and returns what they published, in order, as "channel data".
type outbox struct {
	t    testing.TB
	conn *pgx.Conn
}

func newOutbox(t testing.TB) *outbox {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dbtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &outbox{t, conn}
}

func (o *outbox) exec(sql string) {
	o.t.Helper()
	if _, err := o.conn.Exec(o.t.Context(), sql); err != nil {
		o.t.Fatalf("%.200s: %v", sql, err)
	}
}

func (o *outbox) fails(sql, why string) {
	o.t.Helper()
	if _, err := o.conn.Exec(o.t.Context(), sql); err == nil || !strings.Contains(err.Error(), why) {
		o.t.Errorf("%s: %v, want %q", sql, err, why)
	}
}

func (o *outbox) published(sql string) (all []string) {
	o.t.Helper()
	o.exec("DELETE FROM forgewire.outbox")
	o.exec(sql)
	rows, err := o.conn.Query(o.t.Context(), "SELECT channel || ' ' || data FROM forgewire.outbox ORDER BY xid, id")
	if err != nil {
		o.t.Fatal(err)
	}
	all, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		o.t.Fatal(err)
	}
	return all
}

// expect compares what a statement publishes: channel, then JSON, in turn.
func (o *outbox) expect(sql string, want ...string) {
	o.t.Helper()
	got := o.published(sql)
	if len(got) != len(want)/2 {
		o.t.Errorf("%.200s published %v", sql, got)
		return
	}
	for i, g := range got {
		channel, data, _ := strings.Cut(g, " ")
		var have, expected any
		if err := json.Unmarshal([]byte(data), &have); err != nil {
			o.t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want[2*i+1]), &expected); err != nil {
			o.t.Fatal(err)
		}
		if channel != want[2*i] || !reflect.DeepEqual(have, expected) {
			o.t.Errorf("%.200s published %s, want %s %s", sql, g, want[2*i], want[2*i+1])
		}
	}
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.expect(`SELECT forgewire.broadcast('{b,a,b}', '{"n":1}')`, "b", `{"n":1}`, "a", `{"n":1}`, "b", `{"n":1}`)
	o.expect(`SELECT forgewire.broadcast('{}', '1')`)
	o.fails(`SELECT forgewire.broadcast(NULL, '1')`, "channels is NULL")
	o.fails(`SELECT forgewire.broadcast('{a,NULL}', '1')`, "printable ASCII")
	o.fails(`SELECT forgewire.broadcast('{a,é}', '1')`, "printable ASCII")
	o.fails(`SELECT forgewire.publish('a', '1', '')`, "an idempotency key is 1 to 255 bytes")
	o.fails(`SELECT forgewire.publish('a', '1', repeat('k', 256))`, "an idempotency key is 1 to 255 bytes")
	o.expect("BEGIN; SELECT forgewire.broadcast('{a}', '1'); ROLLBACK")
}

func TestPublishChanges(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE TABLE orders (id int PRIMARY KEY, status text, secret text);
		SELECT forgewire.publish_changes('orders', 'orders:{id}')`)
	head := `"schema":"public","table":"orders"`
	o.expect(`INSERT INTO orders VALUES (1, 'new', 's')`,
		"orders:1", `{"operation":"INSERT",`+head+`,"new":{"id":1,"status":"new","secret":"s"},"old":null}`)
	o.expect(`UPDATE orders SET status = 'paid'`,
		"orders:1", `{"operation":"UPDATE",`+head+`,"new":{"id":1,"status":"paid","secret":"s"},"old":{"id":1,"status":"new","secret":"s"}}`)
	// A row that moves is news on both channels.
	moved := `{"operation":"UPDATE",` + head + `,"new":{"id":2,"status":"paid","secret":"s"},"old":{"id":1,"status":"paid","secret":"s"}}`
	o.expect(`UPDATE orders SET id = 2`, "orders:1", moved, "orders:2", moved)
	o.expect(`DELETE FROM orders`,
		"orders:2", `{"operation":"DELETE",`+head+`,"new":null,"old":{"id":2,"status":"paid","secret":"s"}}`)
	o.expect("BEGIN; INSERT INTO orders VALUES (3); ROLLBACK")

	// A second template beside the first; the same template again replaces.
	o.exec(`SELECT forgewire.publish_changes('orders', 'status', '{id,status}', '{update}')`)
	o.exec(`SELECT forgewire.publish_changes('orders', 'orders:{id}', '{id}', '{INSERT,DELETE}')`)
	o.expect(`INSERT INTO orders VALUES (4, 'new')`, "orders:4", `{"operation":"INSERT",`+head+`,"new":{"id":4},"old":null}`)
	o.expect(`UPDATE orders SET secret = 'other'`) // no column that is published has changed
	o.expect(`UPDATE orders SET status = 'paid'`,
		"status", `{"operation":"UPDATE",`+head+`,"new":{"id":4,"status":"paid"},"old":{"id":4,"status":"new"}}`)
	o.exec(`SELECT forgewire.unpublish_changes('orders', 'status')`)
	o.expect(`UPDATE orders SET status = 'sent'`)
	o.exec(`SELECT forgewire.unpublish_changes('orders')`)
	o.expect(`DELETE FROM orders`)
	o.exec(`SELECT forgewire.unpublish_changes('orders')`)
}

// Whatever a column holds, the channel is one that exists and belongs to its place, and the write succeeds.
func TestPublishChangesOddValues(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE TABLE odd (a text, b numeric, c timestamptz, d uuid, e json, f bool, g bytea, "quo""te {x" int);
		SET timezone = 'UTC';
		SELECT forgewire.publish_changes('odd', 't:{a}', '{b}')`)
	for value, want := range map[string]string{
		"'x'":                  "t:x",
		"'a:b#c$d/e'":          "t:a%3Ab%23c%24d%2Fe",
		"'ü 😀%'":               "t:%C3%BC%20%F0%9F%98%80%25",
		"''":                   "t:",
		"E'line\\nbreak'":      "t:line%0Abreak",
		"'(it)*isn''t~_.!-'":   "t:(it)*isn't~_.!-",
		"repeat('x', 253)":     "t:" + strings.Repeat("x", 253),
		"NULL":                 "",
		"repeat('x', 254)":     "",
		"repeat('ü', 1000000)": "",
	} {
		got := o.published("INSERT INTO odd (a) VALUES (" + value + ")")
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want+" {")) {
			t.Errorf("%s: %v, want %q", value, got, want)
		}
	}
	o.exec(`SELECT forgewire.unpublish_changes('odd'); SELECT forgewire.publish_changes('odd', '{b}/{c}/{d}/{f}', '{f}')`)
	got := o.published(`INSERT INTO odd (b, c, d, f) VALUES (1.50, '2026-01-02 03:04Z', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', true)`)
	if len(got) != 1 || !strings.HasPrefix(got[0], "1.50/2026-01-02T03%3A04%3A00%2B00%3A00/a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11/true ") {
		t.Errorf("%v", got)
	}
	// An empty name is no channel.
	o.exec(`SELECT forgewire.unpublish_changes('odd'); SELECT forgewire.publish_changes('odd', '{a}')`)
	o.expect(`INSERT INTO odd (a) VALUES ('')`)
	// JSON that jsonb refuses: the key columns still arrive.
	o.expect(`INSERT INTO odd (a, e) VALUES ('k', '"\u0000"')`,
		"k", `{"operation":"INSERT","schema":"public","table":"odd","truncated":true,"new":{"a":"k"},"old":null}`)
	// White space in json columns does not become a line break on the wire.
	if got := o.published(`INSERT INTO odd (a, e) VALUES ('k', E'{\n"a":\r1}')`); len(got) != 1 || strings.ContainsAny(got[0], "\r\n") {
		t.Errorf("%q", got)
	}
	// A column of the template that is gone: the write goes on.
	o.exec(`ALTER TABLE odd RENAME a TO z`)
	o.expect(`INSERT INTO odd (z) VALUES ('x')`)
}

func TestPublishChangesLargeRows(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE TABLE large (tenant int, id text, body text, PRIMARY KEY (id));
		SELECT forgewire.publish_changes('large', 'large:{tenant}')`)
	o.expect(`INSERT INTO large VALUES (7, 'a', repeat('x', 2000000))`,
		"large:7", `{"operation":"INSERT","schema":"public","table":"large","truncated":true,"new":{"tenant":7,"id":"a"},"old":null}`)
	o.expect(`UPDATE large SET body = repeat('y', 600000)`,
		"large:7", `{"operation":"UPDATE","schema":"public","table":"large","truncated":true,"new":{"tenant":7,"id":"a"},"old":{"tenant":7,"id":"a"}}`)
	if got := o.published(`UPDATE large SET body = 'z' WHERE id = 'none'`); len(got) != 0 {
		t.Errorf("%v", got)
	}
	// Left out of the columns it does no harm.
	o.exec(`SELECT forgewire.publish_changes('large', 'large:{tenant}', '{id}')`)
	o.expect(`INSERT INTO large VALUES (7, 'b', repeat('x', 2000000))`,
		"large:7", `{"operation":"INSERT","schema":"public","table":"large","new":{"id":"b"},"old":null}`)
}

// Names that need quotes, other schemas, partitions.
func TestPublishChangesNames(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE SCHEMA "my ""schema"; CREATE TABLE "my ""schema"."Odd'table" ("the Id" int, "it's" text);
		SELECT forgewire.publish_changes('"my ""schema"."Odd''table"', 'o''o:{the Id}:{it''s}', ARRAY['the Id'])`)
	o.expect(`INSERT INTO "my ""schema"."Odd'table" VALUES (1, 'x')`,
		"o'o:1:x", `{"operation":"INSERT","schema":"my \"schema","table":"Odd'table","new":{"the Id":1},"old":null}`)
	o.exec(`SELECT forgewire.unpublish_changes('"my ""schema"."Odd''table"')`)
	o.expect(`INSERT INTO "my ""schema"."Odd'table" VALUES (1, 'x')`)

	o.exec(`CREATE TABLE events (id int, at int) PARTITION BY RANGE (at);
		CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
		SELECT forgewire.publish_changes('events', 'events:{id}');
		CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20)`)
	head := `"schema":"public","table":"events"`
	o.expect(`INSERT INTO events VALUES (1, 5), (2, 15)`,
		"events:1", `{"operation":"INSERT",`+head+`,"new":{"id":1,"at":5},"old":null}`,
		"events:2", `{"operation":"INSERT",`+head+`,"new":{"id":2,"at":15},"old":null}`)
	// To another partition: Postgres deletes and inserts.
	o.expect(`UPDATE events SET at = 16 WHERE id = 1`,
		"events:1", `{"operation":"DELETE",`+head+`,"new":null,"old":{"id":1,"at":5}}`,
		"events:1", `{"operation":"INSERT",`+head+`,"new":{"id":1,"at":16},"old":null}`)
	o.exec(`SELECT forgewire.unpublish_changes('events')`)
	o.expect(`DELETE FROM events`)
}

func TestPublishChangesRefuses(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE TABLE things (id int); CREATE VIEW seen AS SELECT * FROM things`)
	for args, why := range map[string]string{
		`'things', 'things:{nope}'`:                          `has no column nope`,
		`'things', 'things:{id'`:                             `not a template`,
		`'things', 'things:id}'`:                             `not a template`,
		`'things', 'things:{}'`:                              `not a template`,
		`'things', ''`:                                       `not a template`,
		`'things', NULL`:                                     `not a template`,
		`'things', 'é:{id}'`:                                 `printable ASCII`,
		`'things', repeat('x', 256)`:                         `printable ASCII`,
		`'things', 't', '{nope}'`:                            `has no column nope`,
		`'things', 't', '{}'`:                                `columns is empty`,
		`'things', 't', NULL, '{}'`:                          `operations are some of`,
		`'things', 't', NULL, '{TRUNCATE}'`:                  `operations are some of`,
		`'things', 't', NULL, '{UPDATE,"x); DROP TABLE y"}'`: `operations are some of`,
		`'seen', 't'`:                                        `not a table`,
		`'forgewire.messages', 't'`:                          `not a table`,
		`'nothing', 't'`:                                     `does not exist`,
	} {
		o.fails("SELECT forgewire.publish_changes("+args+")", why)
	}
}

// A role that may publish can have its own tables' changes published, nobody else's, and whoever writes to
// such a table needs no right of ours.
func TestPublishChangesPrivileges(t *testing.T) {
	t.Parallel()
	o := newOutbox(t)
	o.exec(`CREATE ROLE changes_owner; CREATE ROLE changes_writer; CREATE TABLE private (id int)`)
	t.Cleanup(func() {
		_, err := o.conn.Exec(context.Background(), `RESET ROLE; DROP OWNED BY changes_owner, changes_writer; DROP ROLE changes_owner, changes_writer`)
		if err != nil {
			t.Error(err)
		}
	})
	o.exec(`SELECT forgewire.allow_publish('changes_owner'); CREATE SCHEMA owned AUTHORIZATION changes_owner; SET ROLE changes_owner;
		CREATE TABLE owned.notes (id int); SELECT forgewire.publish_changes('owned.notes', 'notes:{id}');
		SELECT forgewire.broadcast('{a}', '1'); SELECT forgewire.publish('a', '1', 'key');
		GRANT USAGE ON SCHEMA owned TO changes_writer; GRANT INSERT ON owned.notes TO changes_writer`)
	o.fails(`SELECT forgewire.publish_changes('public.private', 'p')`, "permission denied")
	o.exec(`SET ROLE changes_writer`)
	o.exec(`INSERT INTO owned.notes VALUES (1)`)
	o.fails(`SELECT forgewire.publish('a', '1')`, "permission denied")
	o.exec(`SET ROLE changes_owner; SELECT forgewire.unpublish_changes('owned.notes'); RESET ROLE`)
	o.expect(`INSERT INTO owned.notes VALUES (2)`)
}

// What a trigger costs beside the plain write, one transaction each.
func BenchmarkChanges(b *testing.B) {
	for _, c := range []struct{ name, setup string }{
		{"plain", ""},
		{"publish_changes", "SELECT forgewire.publish_changes('bench', 'bench:{id}')"},
		{"two columns", "SELECT forgewire.publish_changes('bench', 'bench:{id}', '{id,status}')"},
	} {
		b.Run(c.name, func(b *testing.B) {
			o := newOutbox(b)
			o.exec(`CREATE TABLE bench (id int PRIMARY KEY, status text, note text); SELECT setval('forgewire.awake', 2); SET synchronous_commit = off`)
			if c.setup != "" {
				o.exec(c.setup)
			}
			b.ResetTimer()
			for i := range b.N {
				if _, err := o.conn.Exec(b.Context(), "INSERT INTO bench VALUES ($1, 'new', $2)", i, fmt.Sprint("note ", i)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
