package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/infra/devstack"
	"forgewire/infra/fakellm"
)

const syscallKill = syscall.SIGKILL

// awaken waits until PostgreSQL works, and starts it if what was wrong with it ended it: it may still be about to end
// when nothing is wrong any more.
func (w *chaos) awaken() {
	w.t.Helper()
	until(w.t, time.Minute, "PostgreSQL working again", func() string {
		if w.pg.PID() == 0 {
			start(w.t, w.pg)
		}
		if _, err := tryQuery[int](w.url, "SELECT 1"); err != nil {
			return err.Error()
		}
		return ""
	})
}

// execute runs a statement past every network, and says so if it fails: the server is well.
func (w *chaos) execute(sql string, args ...any) {
	w.t.Helper()
	execute(w.t, w.url, sql, args...)
}

// backends terminates server processes.
func (w *chaos) terminate(where string) {
	w.t.Helper()
	w.execute(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND ` + where)
}

// occupy lets statements run, or transactions lie open, each on a connection of its own, until the fault ends.
func (w *chaos) occupy(n int, statements ...string) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	ready := make(chan struct{}, 2*n)
	for range n {
		done.Go(func() {
			defer func() { ready <- struct{}{} }()
			conn, err := pgx.Connect(ctx, w.url)
			if err != nil {
				return // no more than the server takes
			}
			defer conn.Close(context.Background())
			for _, sql := range statements {
				if _, err = conn.Exec(ctx, sql); err != nil {
					return // cancelled, or it was too much: that is what it is for
				}
			}
			ready <- struct{}{}
			<-ctx.Done()
		})
	}
	late := time.NewTimer(500 * time.Millisecond)
	defer late.Stop()
	for range n {
		select {
		case <-ready:
		case <-late.C:
			return func() { cancel(); done.Wait() }
		}
	}
	return func() { cancel(); done.Wait() }
}

func postgresFaults() []fault {
	must := func(w *chaos, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	sorting := `SELECT count(*) FROM (SELECT repeat('x', 90) || i AS s FROM generate_series(1, 300000) i ORDER BY 1) s`
	return []fault{
		{kind: "PostgreSQL killed", group: ofPostgres, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			must(w, w.pg.Kill())
			return w.awaken
		}},
		{kind: "PostgreSQL hung", group: ofPostgres, from: short, to: lengthy, begin: func(w *chaos, _ *rand.Rand) func() {
			must(w, w.pg.Pause())
			return func() { must(w, w.pg.Resume()) }
		}},
		{kind: "PostgreSQL restarted", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			stop(w.t, w.pg)
			return w.awaken
		}},
		{kind: "PostgreSQL out of memory: a process killed", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			// As the kernel does: all the others end too, and it recovers.
			pid, err := tryQuery[int](w.url, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name LIKE 'forgewire%' ORDER BY random() LIMIT 1")
			must(w, err)
			must(w, syscall.Kill(pid, syscall.SIGKILL))
			return nothing
		}},
		{kind: "PostgreSQL short of memory and CPU", group: ofPostgres, from: short, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			return w.occupy(3, "SET work_mem = '256MB'", sorting, sorting, sorting)
		}},
		{kind: "PostgreSQL takes no more connections", group: ofPostgres, from: short, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			return w.occupy(150)
		}},
		{kind: "all of PostgreSQL's connections terminated", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			w.terminate("true")
			return nothing
		}},
		{kind: "listeners terminated", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			for range 5 {
				w.terminate("application_name = 'forgewire listen'")
				during(w.t, 150*time.Millisecond)
			}
			return nothing
		}},
		{kind: "drainer terminated", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			for range 5 {
				w.terminate("application_name = 'forgewire drain'")
				during(w.t, 100*time.Millisecond)
			}
			return nothing
		}},
		{kind: "commits terminated", group: ofPostgres, begin: func(w *chaos, _ *rand.Rand) func() {
			for range 40 {
				w.terminate("state = 'active' AND (query LIKE '%forgewire.append%' OR query LIKE '%forgewire.publish%' OR query = 'commit')")
				during(w.t, 20*time.Millisecond)
			}
			return nothing
		}},
		{kind: "the log locked", group: ofPostgres, from: short, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			return w.occupy(1, "BEGIN", "LOCK TABLE forgewire.messages IN ACCESS EXCLUSIVE MODE")
		}},
		{kind: "an old snapshot and an unfinished publish", group: ofPostgres, from: short, to: lengthy, begin: func(w *chaos, _ *rand.Rand) func() {
			return w.occupy(1, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT forgewire.publish('room:1', '1')") // and rolled back
		}},
		{kind: "PostgreSQL's checkpointer hung", group: ofPostgres, from: short, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			return w.hold("checkpointer")
		}},
	}
}

func diskAndClockFaults() []fault {
	wrong := func(kind int, value int64) func(w *chaos, _ *rand.Rand) func() {
		return func(w *chaos, _ *rand.Rand) func() {
			w.accidents.set(w.t, kind, value)
			return func() {
				w.accidents.set(w.t, kind, 0)
				w.awaken()
			}
		}
	}
	return []fault{
		{kind: "PostgreSQL's disk full: tables", group: ofPostgres, from: short, to: middling, needs: withAccidentsOnly, begin: wrong(fullData, 1)},
		{kind: "PostgreSQL's disk full: the write-ahead log", group: ofPostgres, to: middling, needs: withAccidentsOnly, begin: wrong(fullWAL, 1)},
		{kind: "PostgreSQL's disk fails to flush", group: ofPostgres, to: short, needs: withAccidentsOnly, begin: wrong(syncFails, 1)},
		{kind: "PostgreSQL's disk is slow", group: ofPostgres, from: short, to: lengthy, needs: withAccidentsOnly, begin: wrong(syncMicros, 40_000)},
		{kind: "PostgreSQL's clock an hour ahead, and back", group: ofPostgres, from: short, to: lengthy, needs: withAccidentsOnly, begin: wrong(clockSeconds, 3600)},
		{kind: "PostgreSQL's clock an hour behind, and back", group: ofPostgres, from: short, to: lengthy, needs: withAccidentsOnly, begin: wrong(clockSeconds, -3600)},
	}
}

// failovers move to another server, or crash in a way that forgets commits.
func failovers() []fault {
	return []fault{
		{kind: "synchronous standby promoted", group: ofPostgres, alone: true, begin: func(w *chaos, _ *rand.Rand) func() {
			standby := w.newStandby()
			w.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
			w.execute("SELECT pg_reload_conf()")
			until(w.t, 30*time.Second, "the standby being synchronous", func() string {
				n, err := tryQuery[int](w.pg.URL(), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
				if err != nil || n == 0 {
					return "it is not"
				}
				return ""
			})
			w.caughtUp(standby)
			during(w.t, 500*time.Millisecond)
			w.promote(standby)
			return nothing
		}},
		{kind: "lagging standby promoted: commits lost", group: ofPostgres, alone: true, loses: true, begin: func(w *chaos, _ *rand.Rand) func() {
			standby := w.newStandby()
			w.riskily(true)
			w.caughtUp(standby)
			stop(w.t, standby)
			during(w.t, time.Second)
			w.promote(standby)
			return nothing
		}},
		{kind: "a crash forgets commits (synchronous_commit=off)", group: ofPostgres, alone: true, loses: true, begin: func(w *chaos, _ *rand.Rand) func() {
			w.riskily(true)
			for _, set := range []string{"synchronous_commit = off", "wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'"} {
				w.execute("ALTER SYSTEM SET " + set)
			}
			w.execute("SELECT pg_reload_conf()")
			w.flush() // in a transaction of its own: all before it is safe
			release := w.hold("walwriter")
			during(w.t, 1500*time.Millisecond)
			if err := w.pg.Kill(); err != nil {
				w.t.Fatal(err)
			}
			release()
			start(w.t, w.pg)
			w.execute("ALTER SYSTEM RESET ALL")
			w.execute("SELECT pg_reload_conf()")
			return nothing
		}},
	}
}

// promote kills the primary and makes a standby, running or stopped, the server of everybody.
func (w *chaos) promote(standby *devstack.Server) {
	w.t.Helper()
	if err := w.pg.Kill(); err != nil {
		w.t.Fatal(err)
	}
	if standby.PID() == 0 {
		start(w.t, standby)
	}
	execute(w.t, standby.URL(), "SELECT pg_promote()")
	w.moveTo(standby)
	for _, s := range w.lost {
		_ = s.Stop(context.Background()) // it is killed: this lets its folder go
		os.RemoveAll(s.Dir())
	}
	w.lost = nil
}

func valkeyFaults() []fault {
	say := func(begin, end []string) func(w *chaos, _ *rand.Rand) func() {
		return func(w *chaos, _ *rand.Rand) func() {
			valkeyCommand(w.t, w.valkey.Port(), begin...)
			return func() { valkeyCommand(w.t, w.valkey.Port(), end...) }
		}
	}
	return []fault{
		{kind: "Valkey killed", group: ofValkey, to: middling, needs: withValkeyOnly, begin: func(w *chaos, _ *rand.Rand) func() {
			if err := w.valkey.Kill(); err != nil {
				w.t.Fatal(err)
			}
			return func() { start(w.t, w.valkey) }
		}},
		{kind: "Valkey hung", group: ofValkey, from: short, to: lengthy, needs: withValkeyOnly, begin: func(w *chaos, _ *rand.Rand) func() {
			if err := w.valkey.Pause(); err != nil {
				w.t.Fatal(err)
			}
			return func() {
				if err := w.valkey.Resume(); err != nil {
					w.t.Fatal(err)
				}
			}
		}},
		{kind: "Valkey full", group: ofValkey, from: short, to: middling, needs: withValkeyOnly, begin: say(
			[]string{"CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"}, []string{"CONFIG SET maxmemory 128mb", "CONFIG SET maxmemory-policy allkeys-lru"})},
		{kind: "Valkey read-only", group: ofValkey, from: short, to: middling, needs: withValkeyOnly, begin: say(
			[]string{"REPLICAOF 127.0.0.1 1"}, []string{"REPLICAOF NO ONE"})},
		{kind: "Valkey emptied", group: ofValkey, needs: withValkeyOnly, begin: say([]string{"FLUSHALL"}, nil)},
		{kind: "Valkey's connections killed", group: ofValkey, needs: withValkeyOnly, begin: say([]string{"CLIENT KILL TYPE normal SKIPME yes"}, nil)},
	}
}

func modelFaults() (all []fault) {
	for _, of := range []struct {
		kind  string
		fault fakellm.Fault
	}{
		{"breaks off", fakellm.Cut}, {"hangs", fakellm.Hang}, {"stalls in mid-answer", fakellm.Stall}, {"answers 503", fakellm.Overloaded},
		{"answers 429", fakellm.TooMany}, {"fails in mid-answer", fakellm.ErrorEvent}, {"answers a page", fakellm.HTML},
	} {
		all = append(all, fault{kind: "the model " + of.kind, group: ofModel, from: short, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			bad := chaosModel
			bad.Fault, bad.After = of.fault, 5
			w.model.Set("m", bad)
			return func() { w.model.Set("m", chaosModel) }
		}})
	}
	return all
}
