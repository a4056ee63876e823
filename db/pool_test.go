package db_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/infra/devstack"
)

func newPool(t *testing.T, cfg db.PoolConfig) *pgxpool.Pool {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = dbtest.NewEmpty(t)
	}
	pool, err := db.NewPool(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// until waits for a condition, with a deadline.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("waited too long: ", what)
		}
	}
}

// With a database that is too slow for what comes in, as many are served as it can serve, as many wait as may,
// and everybody else is told at once.
func TestTwiceTheCapacityIsShed(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MaxConns: 4, MaxWaiting: 4, AcquireTimeout: 30 * time.Second})
	const callers = 16 // twice what may be in use and wait
	var held []*pgxpool.Conn
	for range 4 {
		c, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	errs := make(chan error, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, err := pool.Exec(t.Context(), "SELECT 1")
			errs <- err
		})
	}
	for range callers - 4 {
		if err := <-errs; !errors.Is(err, db.ErrBusy) || !db.Unavailable(err) {
			t.Errorf("one too many got %v", err)
		}
	}
	s := db.PoolStats(pool)
	if s.Waiting != 4 || s.InUse != 4 || s.Refused != callers-4 || s.Size != 4 || s.Ceiling != 4 {
		t.Errorf("under load: %+v", s)
	}
	for _, c := range held {
		c.Release()
	}
	wg.Wait()
	for range 4 {
		if err := <-errs; err != nil {
			t.Errorf("one that waited got %v", err)
		}
	}
	s = db.PoolStats(pool)
	if s.Waiting != 0 || s.InUse != 0 || s.Idle != 4 || s.Opened != 4 || s.Waited == 0 || s.WaitSeconds <= 0 {
		t.Errorf("afterwards: %+v", s)
	}
}

func TestAcquireTimeout(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MaxConns: 1, AcquireTimeout: 50 * time.Millisecond})
	var c *pgxpool.Conn
	until(t, "a connection is made", func() (made bool) { // which may take longer than one waits for it
		var err error
		c, err = pool.Acquire(t.Context())
		return err == nil
	})
	defer c.Release()
	before := db.PoolStats(pool)
	for name, use := range map[string]func(ctx context.Context) error{
		"Exec":     func(ctx context.Context) error { _, err := pool.Exec(ctx, "SELECT 1"); return err },
		"QueryRow": func(ctx context.Context) error { return pool.QueryRow(ctx, "SELECT 1").Scan(new(int)) },
		"Begin":    func(ctx context.Context) error { _, err := pool.Begin(ctx); return err },
		"InTx":     func(ctx context.Context) error { return db.InTx(ctx, pool, nil) },
	} {
		if err := use(t.Context()); !errors.Is(err, db.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := db.PoolStats(pool); s.TimedOut-before.TimedOut != 4 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	// The caller's own reasons stay the caller's.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pool.Exec(ctx, "SELECT 1"); !errors.Is(err, context.Canceled) || errors.Is(err, db.ErrBusy) {
		t.Errorf("after the caller left: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := pool.Exec(ctx, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, db.ErrBusy) {
		t.Errorf("after the caller's deadline: %v", err)
	}
}

func TestDatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{URL: "postgres://127.0.0.1:1/none"})
	if _, err := pool.Exec(t.Context(), "SELECT 1"); !db.Unavailable(err) || errors.Is(err, db.ErrBusy) {
		t.Errorf("%v", err)
	}
}

// A server that is not ready is asked a few times a second, however many want to use it, and used as soon as it is.
func TestServerThatIsNotReady(t *testing.T) {
	t.Parallel()
	dir, err := devstack.MkdirTemp("", "forgewire-db-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server, err := devstack.StartPostgres(t.Context(), filepath.Join(dir, "data"), map[string]string{"fsync": "off"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	url := strings.Replace(server.URL(), "/forgewire", "/postgres", 1)
	pool := newPool(t, db.PoolConfig{URL: url, MaxConns: 4})
	client, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	// It waits for its client to leave, and takes no other.
	if err = syscall.Kill(server.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "it shuts down", func() bool { return notReady(pool) })
	refusals := func() int {
		log, err := os.ReadFile(filepath.Join(server.Dir(), "server.log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), "the database system is shutting down")
	}
	before, start, asked := refusals(), time.Now(), 0
	for ; time.Since(start) < time.Second; asked++ {
		if !notReady(pool) {
			t.Fatal("it answered")
		}
	}
	if n := refusals() - before; n < 2 || n > int(time.Since(start)/(50*time.Millisecond)) || asked < 10*n {
		t.Errorf("%d times asked of the pool, %d of the server", asked, n)
	}
	if err = server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err = server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "it is used again", func() bool {
		_, err := pool.Exec(t.Context(), "SELECT 1")
		return err == nil
	})
}

// notReady says whether the server answers that it starts up or shuts down.
func notReady(pool *pgxpool.Pool) bool {
	_, err := pool.Exec(context.Background(), "SELECT 1")
	var refusal *pgconn.PgError
	return errors.As(err, &refusal) && refusal.Code == "57P03"
}

// Connections that died while they were idle are not handed out.
func TestDeadConnectionsAreNoticed(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MaxConns: 3})
	var held []*pgxpool.Conn
	for range 3 {
		c, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
	other := newPool(t, db.PoolConfig{URL: pool.Config().ConnString()})
	if _, err := other.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(1100 * time.Millisecond) // idle for so long that they are looked at
	defer timer.Stop()
	<-timer.C
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := pool.Exec(t.Context(), "SELECT pg_sleep(0.05)"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	until(t, "three ended", func() bool { return db.PoolStats(pool).Ended == 3 })
}

// A pool that nobody uses opens nothing; once it is used it has its base.
func TestBase(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MinConns: 3, MaxConns: 5})
	if _, err := pool.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if s := db.PoolStats(pool); s.Opened != 1 || s.Base != 3 {
		t.Errorf("after one query: %+v", s)
	}
	c, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Conn().Close(t.Context()) // the pool looks at its health when one is lost
	c.Release()
	until(t, "the base is open", func() bool { return db.PoolStats(pool).Size == 3 })
}

func TestStatsAdd(t *testing.T) {
	a := db.Stats{Base: 1, Ceiling: 2, Size: 3, InUse: 4, Idle: 5, Waiting: 6, Acquired: 7, Waited: 8, WaitSeconds: 9, TimedOut: 10, Refused: 11, Opened: 12, Ended: 13}
	b := a
	a.Add(b)
	if want := (db.Stats{Base: 2, Ceiling: 4, Size: 6, InUse: 8, Idle: 10, Waiting: 12, Acquired: 14, Waited: 16, WaitSeconds: 18, TimedOut: 20, Refused: 22, Opened: 24, Ended: 26}); a != want {
		t.Errorf("%+v", a)
	}
}

// Connections end when they are old enough, and not all at once.
func TestLifetime(t *testing.T) {
	t.Parallel()
	pool := newPool(t, db.PoolConfig{MaxConns: 4, MinConns: 4, Lifetime: 500 * time.Millisecond})
	if c := newPool(t, db.PoolConfig{}).Config(); c.MaxConnLifetime != time.Hour || c.MaxConnLifetimeJitter != 6*time.Minute {
		t.Errorf("usually a connection lives for %v and up to %v more", c.MaxConnLifetime, c.MaxConnLifetimeJitter)
	}
	use := func() {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = pool.Exec(t.Context(), "SELECT pg_sleep(0.01)") })
		}
		wg.Wait()
	}
	began := time.Now()
	use()
	until(t, "four connections have ended of old age", func() bool {
		use()
		return db.PoolStats(pool).Ended >= 4
	})
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("they ended after %v", took)
	}
}
