package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"forgewire/infra/devstack"
	"forgewire/infra/fakellm"
)

// chaos is everything that a chaos run breaks: replicas, the servers behind them, and every network between.
type chaos struct {
	*cluster          // the replicas themselves, past every network
	front    *cluster // the same as clients reach them
	seed     uint64
	database string // its name

	pg        *devstack.Server // the primary of now: a promotion changes it
	lost      []*devstack.Server
	accidents *accidents       // nil where nothing can be loaded into PostgreSQL
	valkey    *devstack.Server // nil where none is installed
	model     *fakellm.Server

	// Networks: one to the database, to Valkey and from the clients a replica; replica C's listener has its own.
	toDB, toValkey, fromClients         []*proxy
	toDBOfListener, toModel, fromTheApp *proxy

	book  *ledger
	load  *chaosLoad
	crowd []witness
	tally tally
	loses bool // the log may have gone back since the last check; guarded by book.mu

	checkedUpTo uint64 // the number up to which everything was checked
	checkedRows int    // and how many messages that were

	mu    sync.Mutex
	doing string   // what is broken now, for whoever finds something wrong
	wrong []string // guarded by mu
}

const chaosReplicas = 3

// chaosOptions is what a soak has otherwise.
type chaosOptions struct {
	plain bool     // the binary as it is deployed, without the race detector
	env   []string // more of it
}

func newChaos(t *testing.T, seed uint64, o chaosOptions) *chaos {
	t.Helper()
	w := &chaos{seed: seed, book: newLedger()}
	w.book.told = true
	w.accidents = newAccidents(t)
	w.pg = ownServer(t, chaosSettings)
	w.accidents.preload(t, w.pg)
	direct := newDatabase(t, w.pg)
	w.database = filepath.Base(mustPath(t, direct))
	execute(t, direct, "CREATE TABLE orders (id text PRIMARY KEY)")
	w.model = newModel(t, map[string]fakellm.Behaviour{"m": chaosModel})
	w.valkey = ownValkey(t)
	for range chaosReplicas {
		w.toDB = append(w.toDB, newProxy(t, w.pg.Port()))
		if w.valkey != nil {
			w.toValkey = append(w.toValkey, newProxy(t, w.valkey.Port()))
		}
	}
	w.toDBOfListener, w.fromTheApp = newProxy(t, w.pg.Port()), newProxy(t, w.pg.Port())
	w.toModel = newProxy(t, portOf(t, w.model.URL()))
	w.cluster = newCluster(t, chaosReplicas, options{url: direct, idle: true, env: append(o.env, "FORGEWIRE_DB_POOL_MIN=4", "FORGEWIRE_DB_POOL_MAX=10",
		"FORGEWIRE_UPSTREAM_URL="+w.toModel.url(t, w.model.URL()), "FORGEWIRE_UPSTREAM_KEY="+modelKey),
		urls: func(i int) (string, string) {
			if i == chaosReplicas-1 {
				return w.toDB[i].url(t, direct), w.toDBOfListener.url(t, direct)
			}
			return w.toDB[i].url(t, direct), w.toDB[i].url(t, direct)
		}})
	plain, err := "", error(nil)
	if o.plain && os.Getenv("E2E_BINARY") == "" {
		if plain, err = buildPlain(); err != nil {
			t.Fatal(err)
		}
	}
	w.front = &cluster{t: t, url: direct}
	for i, r := range w.replicas {
		if w.valkey != nil {
			r.env = append(r.env, "VALKEY_URL="+w.toValkey[i].url(t, w.valkey.URL()))
		}
		way := newProxy(t, portOf(t, "http://"+r.addr))
		w.fromClients = append(w.fromClients, way)
		w.front.replicas = append(w.front.replicas, &replica{t: t, name: "the way to " + r.name, addr: way.p.Listen})
		r.binary = plain
		r.start()
	}
	for _, r := range w.replicas {
		r.waitReady(60 * time.Second)
	}
	w.load = newChaosLoad(w)
	return w
}

var chaosSettings = map[string]string{
	"max_connections":                     "150",
	"wal_level":                           "replica",
	"max_wal_senders":                     "8",
	"hot_standby":                         "on",
	"wal_keep_size":                       "64MB",
	"checkpoint_timeout":                  "30s",
	"autovacuum_naptime":                  "5s",
	"restart_after_crash":                 "on",
	"min_wal_size":                        "32MB",
	"max_wal_size":                        "64MB",
	"idle_in_transaction_session_timeout": "60s",
}

var chaosModel = fakellm.Behaviour{Tokens: 12, Interval: 3 * time.Millisecond}

// ownValkey starts a Valkey for one test; nil where none is installed.
func ownValkey(t *testing.T) *devstack.Server {
	t.Helper()
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-valkey-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := devstack.StartValkey(t.Context(), filepath.Join(dir, "data"), nil, nil)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Logf("without Valkey: %v", err)
		return nil
	}
	t.Cleanup(func() {
		_ = s.Resume() // it may not run
		_ = s.Stop(context.Background())
	})
	return s
}

// wrongly notes that a promise was broken.
func (w *chaos) wrongly(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := fmt.Sprintf("during %q: ", w.doing) + fmt.Sprintf(format, args...)
	if len(w.wrong) < maxFindings {
		w.wrong = append(w.wrong, what)
		w.t.Error(what)
	}
}

func (w *chaos) findings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrong
}

func (w *chaos) now(doing string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doing = doing
}

// there is the database on a server, past every network.
func (w *chaos) there(s *devstack.Server) string { return atDatabase(w.t, s.URL(), w.database) }

// toServers are the networks that end at PostgreSQL.
func (w *chaos) toServers() []*proxy {
	return append([]*proxy{w.toDBOfListener, w.fromTheApp}, w.toDB...)
}

// moveTo makes another server the primary of everybody.
func (w *chaos) moveTo(s *devstack.Server) {
	for _, p := range w.toServers() {
		p.lead(s.Port())
	}
	w.lost = append(w.lost, w.pg)
	w.pg, w.url = s, w.there(s)
}

// newStandby copies the primary and starts the copy as its standby.
func (w *chaos) newStandby() *devstack.Server {
	t := w.t
	t.Helper()
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-standby-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	tool(t, "pg_basebackup", "-D", data, "-d", w.pg.URL(), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	s, err := devstack.StartPostgres(t.Context(), data, chaosSettings, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Resume() // it may not run
		_ = s.Stop(context.Background())
	})
	w.accidents.preload(t, s)
	return s
}

// caughtUp waits until a standby has what the primary had committed.
func (w *chaos) caughtUp(standby *devstack.Server) {
	w.t.Helper()
	until(w.t, 30*time.Second, "the standby catching up", func() string {
		at, err := tryQuery[string](w.pg.URL(), "SELECT pg_current_wal_lsn()::text")
		if err != nil {
			return err.Error()
		}
		has, err := tryQuery[bool](standby.URL(), "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)", at)
		if err != nil || !has {
			return fmt.Sprint("it has not ", at, ": ", err)
		}
		return ""
	})
}

// riskily says that what is acknowledged from now on may be lost, or, in the end, no longer.
func (w *chaos) riskily(yes bool) {
	w.book.mu.Lock()
	defer w.book.mu.Unlock()
	w.book.risky = yes
	w.loses = w.loses || yes
}

func (w *chaos) mayHaveLost() bool {
	w.book.mu.Lock()
	defer w.book.mu.Unlock()
	return w.loses
}

// hold stops one of the server's processes, or all of a name, and returns how to let them go on.
func (w *chaos) hold(backendType string) (release func()) {
	pids, err := tryQuery[[]int](w.url, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE backend_type = $1", backendType)
	if err != nil {
		w.t.Fatal(err)
	}
	signal := func(s syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, s) // it may be gone
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// pick chooses one of several.
func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// portOf is the port in a URL.
func portOf(t testing.TB, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
