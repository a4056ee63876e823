package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/infra/devstack"
)

// Tests mostly wait, so more of them than cores may run, but few of those that keep the cores busy.
const (
	parallelTests = 6
	heavyTests    = 2
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", fmt.Sprint(parallelTests))
	}
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	defer func() {
		if server := shared.server.Load(); server != nil {
			_ = server.Stop(context.Background())
		}
	}()
	return m.Run()
}

var buildDir string

// forgewire returns the path of the binary, built when the first test asks for it.
func forgewire(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// E2E_BINARY is one that is built already, for whoever runs a test again and again.
var build = sync.OnceValues(func() (string, error) {
	if ready := os.Getenv("E2E_BINARY"); ready != "" {
		return ready, nil
	}
	_, err := exec.LookPath("gcc")
	return compile("forgewire", long() && err == nil)
})

// buildPlain is the binary as it is deployed, without the race detector, which starts ten times as slowly and takes
// several times the memory.
var buildPlain = sync.OnceValues(func() (string, error) {
	if !long() {
		return build()
	}
	return compile("forgewire-plain", false)
})

func compile(name string, race bool) (string, error) {
	path := filepath.Join(buildDir, name)
	args, cgo := []string{"build", "-buildvcs=false", "-o", path}, "CGO_ENABLED=0"
	if race {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(args, "forgewire/cmd/forgewire")...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return path, nil
}

// fresh is the data folder of a PostgreSQL server that was migrated and then stopped. Servers of tests begin as its copies:
// that takes a tenth of what initdb and the migrations do.
var fresh = sync.OnceValues(func() (string, error) {
	dir, err := devstack.MkdirTemp(buildDir, "fresh-")
	if err != nil {
		return "", err
	}
	data := filepath.Join(dir, "data")
	binary, err := build()
	if err != nil {
		return "", err
	}
	s, err := devstack.StartPostgres(context.Background(), data, nil, os.Stderr)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(binary, "migrate")
	cmd.Env = []string{"DATABASE_URL=" + s.URL()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("migrate: %w: %s", err, out), s.Stop(context.Background()))
	}
	return data, s.Stop(context.Background())
})

// copied are the servers that began so.
var copied sync.Map

// startServer starts a copy of the fresh server, in dir.
func startServer(ctx context.Context, dir string, settings map[string]string) (*devstack.Server, error) {
	from, err := fresh()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if out, err := exec.Command("cp", "-a", from, data).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy a data folder: %w: %s", err, out)
	}
	s, err := devstack.StartPostgres(ctx, data, settings, nil)
	if err != nil {
		return nil, err
	}
	copied.Store(s, true)
	return s, nil
}

// shared is the PostgreSQL server of all tests that leave it alone.
var shared struct {
	once   sync.Once
	server atomic.Pointer[devstack.Server]
	err    error
}

var serverSettings = map[string]string{"max_connections": "400"}

func sharedServer(t testing.TB) *devstack.Server {
	t.Helper()
	shared.once.Do(func() {
		var dir string
		var server *devstack.Server
		if dir, shared.err = devstack.MkdirTemp(buildDir, "shared-"); shared.err == nil {
			server, shared.err = startServer(context.Background(), dir, serverSettings)
			shared.server.Store(server)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Load()
}

// ownServer starts a PostgreSQL server for one test, which may do with it what it likes.
func ownServer(t testing.TB, settings map[string]string) *devstack.Server {
	t.Helper()
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := startServer(t.Context(), dir, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Resume()
		if err := s.Stop(context.Background()); err != nil {
			t.Logf("stop PostgreSQL: %v", err)
		}
	})
	return s
}

var (
	databases atomic.Int64
	hasOne    sync.Map // the tests that have a database
)

// newDatabase makes a database with nothing in it but, where the server has it at hand, our schema, and returns its URL.
func newDatabase(t testing.TB, s *devstack.Server) string {
	t.Helper()
	if _, ok := copied.Load(s); !ok {
		return emptyDatabase(t, s)
	}
	u := create(t, s, strings.Trim(mustPath(t, s.URL()), "/"))
	root, _, _ := strings.Cut(t.Name(), "/")
	if _, further := hasOne.LoadOrStore(root, true); further { // and its second log is to have an epoch of its own
		execute(t, u, "UPDATE forgewire.log SET epoch = substr(md5(gen_random_uuid()::text), 1, 12)")
	}
	return u
}

// emptyDatabase makes a database without our schema.
func emptyDatabase(t testing.TB, s *devstack.Server) string {
	t.Helper()
	return create(t, s, "template0")
}

func create(t testing.TB, s *devstack.Server, template string) string {
	t.Helper()
	name := fmt.Sprintf("e2e_%d", databases.Add(1))
	admin := atDatabase(t, s.URL(), "postgres")
	statement := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template)
	if query[string](t, admin, "SHOW server_version") >= "15" { // none that we support has one digit
		statement += " STRATEGY FILE_COPY" // not through the WAL, which takes twice the time
	}
	execute(t, admin, statement)
	if s == shared.server.Load() {
		t.Cleanup(func() { execute(t, admin, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)) })
	}
	return atDatabase(t, s.URL(), name)
}

func atDatabase(t testing.TB, serverURL, name string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// mustPath is a URL's path.
func mustPath(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}

// dial connects to a database until the test ends.
func dial(t testing.TB, databaseURL string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx) // the server may be gone
	})
	return c
}

// kept are connections that were used once, one for each database at most: a server needs longer to start a connection than
// for most statements.
var kept sync.Map

// connected runs do, for a minute at most, on a connection that nothing was left on.
func connected(databaseURL string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := connection(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	err = do(ctx, c)
	if other, loaded := kept.Swap(databaseURL, c); loaded {
		_ = other.(*pgx.Conn).Close(ctx) // it was as good
	}
	return err
}

func connection(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	if one, ok := kept.LoadAndDelete(databaseURL); ok {
		c := one.(*pgx.Conn)
		if !c.IsClosed() {
			trial, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := c.Exec(trial, "DISCARD ALL")
			if err == nil {
				err = c.DeallocateAll(trial) // pgx has a list of what it prepared
			}
			if err == nil {
				return c, nil
			}
		}
		_ = c.Close(ctx) // the server was restarted, the database is gone, …
	}
	return pgx.Connect(ctx, databaseURL)
}

// execute runs statements.
func execute(t testing.TB, databaseURL, sql string, args ...any) {
	t.Helper()
	err := connected(databaseURL, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns one value.
func query[T any](t testing.TB, databaseURL, sql string, args ...any) T {
	t.Helper()
	v, err := tryQuery[T](databaseURL, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func tryQuery[T any](databaseURL, sql string, args ...any) (v T, err error) {
	err = connected(databaseURL, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, sql, args...).Scan(&v)
	})
	return v, err
}

var heavySlots = make(chan struct{}, heavyTests)

// heavy lets t run beside others, but with few that also keep the machine busy.
func heavy(t *testing.T) {
	t.Parallel()
	heavySlots <- struct{}{}
	t.Cleanup(func() { <-heavySlots })
}

// long says whether everything is tried, by a binary with the race detector, and faults last as long as the promises
// say: `make test-long`. Otherwise the tests are those that a change can wait for.
func long() bool { return os.Getenv("E2E_LONG") == "1" }

// variant skips a test that tries what another, or chaos, tries too, in a further way, unless everything is to be tried.
func variant(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("a further way of what others or chaos try: make test-long")
	}
}

// lasting is how long a fault lasts.
func lasting(usual, promised time.Duration) time.Duration {
	if long() {
		return promised
	}
	return usual
}

// until waits for a condition, which says what is still missing, or "".
func until(t testing.TB, within time.Duration, what string, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := missing()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within %v: %s", what, within, why)
		}
		<-tick.C
	}
}

// during lets time pass in which a fault lasts.
func during(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
