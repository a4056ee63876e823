package realtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db/dbtest"
)

// rls is a team's own schema: rooms, members, a policy that reads the token's claims as PostgREST has them,
// and forgewire.authorize in their words. Policies bind neither owners nor superusers, so the function runs
// as the role that they are made for.
const rls = `
	CREATE TABLE public.members (user_id text, room text, writes boolean);
	CREATE TABLE public.asked (n int);
	ALTER TABLE public.members ENABLE ROW LEVEL SECURITY;
	CREATE POLICY own ON public.members USING (user_id = current_setting('request.jwt.claims')::json ->> 'sub'
		OR current_setting('request.jwt.claims')::json ->> 'role' = 'admin');
	INSERT INTO public.members VALUES ('joe', 'rls:1', false), ('jane', 'rls:2', true);
	GRANT USAGE ON SCHEMA public TO authenticated_test;
	GRANT SELECT ON public.members TO authenticated_test;
	GRANT INSERT ON public.asked TO authenticated_test;
	GRANT EXECUTE ON FUNCTION forgewire.authorize TO authenticated_test;
	CREATE OR REPLACE FUNCTION forgewire.authorize(user_id text, channel text, action text) RETURNS interval
	LANGUAGE plpgsql VOLATILE SET role = authenticated_test AS $$
	BEGIN
		INSERT INTO public.asked VALUES (1);
		RETURN (SELECT interval '10 minutes' FROM public.members m WHERE m.room = channel AND (action = 'subscribe' OR m.writes) LIMIT 1);
	END $$;`

const authorizeNamespace = `{"namespaces":[{"name":"rls","authorize":true,"allow_subscribe_for_client":false}]}`

func TestAuthorizeWithRowLevelSecurity(t *testing.T) {
	db := dbtest.New(t)
	c := dial(t, db)
	for _, sql := range []string{"CREATE ROLE authenticated_test", rls} {
		if _, err := c.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY authenticated_test", "DROP ROLE authenticated_test"} {
			if _, err := c.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	n, url := startNode(t, db, authorizeNamespace, func(c *Config) { c.AllowAnonymous = true })
	joe1 := joined(t, url, hs(joe("channels", []string{"rls:1", "rls:2"})))
	jane := joined(t, url, hs(map[string]any{"sub": "jane"}))
	admin := joined(t, url, hs(joe("role", "admin")))
	nobody := dialWire(t, url)
	nobody.wantError(`"connect":{}`, 0)
	publish := func(channel string) string { return `"publish":{"channel":"` + channel + `","data":{}}` }
	joe1.wantError(subscribeTo("rls:1", ""), 105) // by the token, and allowed
	joe1.wantError(subscribeTo("rls:2", ""), 103) // left out of it
	joe1.wantError(subscribeTo("rls:2", hs(joe("channel", "rls:2"))), 103)
	joe1.wantError(publish("rls:1"), 103)
	joe1.wantError(`"history":{"channel":"rls:1"}`, 0)
	jane.wantError(subscribeTo("rls:2", ""), 0)
	jane.wantError(publish("rls:2"), 0)
	jane.wantError(subscribeTo("rls:1", ""), 103)
	nobody.wantError(subscribeTo("rls:1", ""), 103)
	admin.wantError(subscribeTo("rls:1", ""), 0) // the same user with other claims: another answer
	admin.wantError(subscribeTo("rls:2", ""), 0)

	// The answer is remembered for as long as it says, also by one who comes back.
	before := one[int](t, n.cfg.Pool, "SELECT count(*) FROM public.asked")
	for range 5 {
		jane.wantError(publish("rls:2"), 0)
	}
	again := joined(t, url, hs(map[string]any{"sub": "jane"}))
	again.wantError(subscribeTo("rls:2", ""), 0)
	if after := one[int](t, n.cfg.Pool, "SELECT count(*) FROM public.asked"); after != before {
		t.Errorf("asked %d times more", after-before)
	}
	// The claims did not stay behind on a connection of the pool.
	if left := one[string](t, n.cfg.Pool, "SELECT coalesce(current_setting('request.jwt.claims', true), '')"); left != "" {
		t.Errorf("claims %q", left)
	}

	// When the answer ends the client subscribes again, and is judged anew.
	if _, err := c.Exec(context.Background(), "DELETE FROM public.members"); err != nil {
		t.Fatal(err)
	}
	n.authorizer.seen.Purge()
	janes := n.hub.clientsOf("jane", "")
	for _, x := range janes {
		x.shard.mu.Lock()
		x.shard.expire(time.Now().Add(10*time.Minute + time.Second))
		x.shard.mu.Unlock()
	}
	for {
		if r, _ := again.read(); r.Push != nil && r.Push.Unsubscribe != nil && r.Push.Unsubscribe.Code == 2501 {
			break
		}
	}
	again.wantError(subscribeTo("rls:2", ""), 103)
}

func TestAuthorizeDefaultDenies(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), authorizeNamespace, nil)
	w := joined(t, url, hs(joe()))
	w.wantError(subscribeTo("rls:1", ""), 103)
	w.wantError(`"publish":{"channel":"rls:1","data":{}}`, 103)
	w.wantError(subscribeTo("other", ""), 0)
}

// authorizeAs replaces the function's body.
func authorizeAs(t *testing.T, db, body string) {
	t.Helper()
	if _, err := dial(t, db).Exec(context.Background(), `CREATE OR REPLACE FUNCTION forgewire.authorize(user_id text, channel text, action text)
		RETURNS interval LANGUAGE plpgsql AS $$ BEGIN `+body+` END $$`); err != nil {
		t.Fatal(err)
	}
}

// Answers at the edges: what is not clearly a yes is a no, and what goes wrong is nobody's permission.
func TestAuthorizeAnswers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	_, url := startNode(t, db, authorizeNamespace, nil)
	w := joined(t, url, hs(joe()))
	for channel, c := range map[string]struct {
		body string
		code int
	}{
		"rls:zero":     {"RETURN interval '0';", 0},
		"rls:negative": {"RETURN interval '-1 second';", 103},
		"rls:ages":     {"RETURN interval '1000000 years' * 0.1;", 0},
		"rls:null":     {"RETURN NULL;", 103},
		"rls:error":    {"RAISE EXCEPTION 'no';", 100},
		"rls:slow":     {"PERFORM pg_sleep(60); RETURN interval '1 hour';", 100},
	} {
		authorizeAs(t, db, c.body)
		w.wantError(subscribeTo(channel, ""), c.code)
	}
}

// Many who ask the same at once are one query; a denial is remembered for a moment.
func TestAuthorizeOneFlight(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	if _, err := dial(t, db).Exec(context.Background(), "CREATE TABLE public.asked (n int)"); err != nil {
		t.Fatal(err)
	}
	authorizeAs(t, db, "INSERT INTO public.asked VALUES (1); PERFORM pg_sleep(0.2); RETURN CASE WHEN channel = 'rls:1' THEN interval '1 hour' END;")
	n, _ := startNode(t, db, authorizeNamespace, nil)
	who := identityOf("joe", `{"sub":"joe"}`)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := n.authorizer.ask(t.Context(), who, "rls:1", actionSubscribe); err != nil {
				t.Error(err)
			}
			if _, err := n.authorizer.ask(t.Context(), who, "rls:2", actionSubscribe); !errors.Is(err, ErrPermissionDenied) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if asked := one[int](t, n.cfg.Pool, "SELECT count(*) FROM public.asked"); asked != 2 {
		t.Errorf("%d queries", asked)
	}
}

// However slow the function is and however many ask, publishing goes on; and a database that is away allows
// nothing.
func TestAuthorizeLeavesThePoolAlone(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	authorizeAs(t, db, "PERFORM pg_sleep(30); RETURN interval '1 hour';")
	n, _ := startNode(t, db, authorizeNamespace, nil)
	who := identityOf("joe", "")
	var wg sync.WaitGroup
	for i := range 5 * authorizeAtOnce {
		wg.Go(func() {
			_, err := n.authorizer.ask(t.Context(), who, fmt.Sprint("rls:", i), actionSubscribe)
			if err == nil || errors.Is(err, ErrPermissionDenied) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	eventually(t, 10*time.Second, "as many as may are asking", func() bool {
		return one[int](t, n.cfg.Pool, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%ask_authorize%' AND wait_event = 'PgSleep' AND datname = current_database()") == authorizeAtOnce
	})
	start := time.Now()
	must(n.Publish(t.Context(), message("a", 1)))
	if took := time.Since(start); took > authorizeTimeout/2 {
		t.Errorf("a publish took %v", took)
	}
	wg.Wait()

	pool := must(pgxpool.New(context.Background(), db))
	a := must(newAuthorizer(pool))
	pool.Close()
	if until, err := a.ask(t.Context(), who, "rls:1", actionSubscribe); err == nil || errors.Is(err, ErrPermissionDenied) || !until.IsZero() {
		t.Errorf("%v, %v", until, err)
	}
}
