package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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
	dir, err := os.MkdirTemp("", "forgewire-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	defer func() {
		if stack := shared.stack.Load(); stack != nil {
			_ = stack.Stop(context.Background())
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

// shared is the PostgreSQL server of all tests that leave it alone.
var shared struct {
	once  sync.Once
	stack atomic.Pointer[devstack.Stack]
	err   error
}

var serverSettings = map[string]string{"max_connections": "400"}

func sharedServer(t testing.TB) *devstack.Server {
	t.Helper()
	shared.once.Do(func() {
		stack, err := devstack.Start(context.Background(),
			devstack.Config{NoValkey: true, Progress: os.Stderr, Settings: serverSettings})
		shared.err = err
		shared.stack.Store(stack)
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.stack.Load().Postgres
}

// ownServer starts a PostgreSQL server for one test, which may do with it what it likes.
func ownServer(t testing.TB, settings map[string]string) *devstack.Server {
	t.Helper()
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := devstack.StartPostgres(t.Context(), filepath.Join(dir, "data"), settings, nil)
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

var databases atomic.Int64

// newDatabase makes an empty database on a server and returns its URL.
func newDatabase(t testing.TB, s *devstack.Server) string {
	t.Helper()
	name := fmt.Sprintf("e2e_%d", databases.Add(1))
	execute(t, s.URL(), "CREATE DATABASE "+name)
	u := atDatabase(t, s.URL(), name)
	if stack := shared.stack.Load(); stack != nil && s == stack.Postgres {
		t.Cleanup(func() { execute(t, s.URL(), fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)) })
	}
	return u
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

// execute runs statements on a connection of their own.
func execute(t testing.TB, databaseURL, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer c.Close(ctx)
	if _, err = c.Exec(ctx, sql, args...); err != nil {
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return v, err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, sql, args...).Scan(&v)
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

// variant skips a test that tries what another tries too, in a further way, unless everything is to be tried.
func variant(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("a further way of what others try: make test-long")
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
	tick := time.NewTicker(10 * time.Millisecond)
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
