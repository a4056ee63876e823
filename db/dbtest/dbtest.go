// Package dbtest gives tests a real, migrated PostgreSQL database each, and a Valkey server where they want one. NOTIFY,
// advisory locks and the log's single sequence all belong to a database, so a database for each test keeps tests apart.
package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/infra/devstack"
)

var (
	stack  *devstack.Stack
	number atomic.Int64

	// administrator is connected to a database that nobody copies: a server needs longer for a connection than for most
	// statements.
	administrator *pgx.Conn
	administering sync.Mutex // one statement at a time

	hasOne sync.Map // the tests that have a database
)

// Main is a package's TestMain: it starts one private server, migrates a template, runs the tests, and
// returns the exit code.
func Main(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	// Some tests kill the server, but none the machine: what the kernel has is not lost.
	stack, err = devstack.Start(ctx, devstack.Config{NoValkey: true, Progress: os.Stderr, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "dbtest:", err)
		return 1
	}
	defer stack.Stop(context.Background()) //nolint:errcheck // the process ends here
	if err = db.Migrate(ctx, stack.Postgres.URL()); err == nil {
		err = administer(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dbtest:", err)
		return 1
	}
	defer administrator.Close(context.Background())
	return m.Run()
}

// administer connects the administrator.
func administer(ctx context.Context) (err error) {
	administrator, err = pgx.Connect(ctx, at("postgres"))
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	return nil
}

// at is the URL of a database.
func at(name string) string {
	u, _ := url.Parse(stack.Postgres.URL()) // devstack made it
	u.Path = "/" + name
	return u.String()
}

// Server is the test's PostgreSQL server, to be killed or paused only by tests that do not run in parallel.
func Server() *devstack.Server { return stack.Postgres }

// New makes a migrated database for t and returns its URL. It is dropped when t ends.
func New(t testing.TB) string {
	t.Helper()
	return create(t, "forgewire")
}

// NewEmpty makes a database without the schema forgewire.
func NewEmpty(t testing.TB) string {
	t.Helper()
	return create(t, "template0")
}

func create(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), number.Add(1))
	admin(t, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s %s", name, template, copying()))
	t.Cleanup(func() { admin(t, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)) })
	root, _, _ := strings.Cut(t.Name(), "/")
	if _, further := hasOne.LoadOrStore(root, true); further && template == "forgewire" {
		// A copy has the template's epoch; a test's second log has one of its own.
		c, err := pgx.Connect(context.Background(), at(name))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if _, err = c.Exec(context.Background(), "UPDATE forgewire.log SET epoch = substr(md5(gen_random_uuid()::text), 1, 12)"); err != nil {
			t.Fatal(err)
		}
	}
	return at(name)
}

// copying is how CREATE DATABASE is to copy: not through the WAL, which takes twice the time.
func copying() string {
	administering.Lock()
	defer administering.Unlock()
	if administrator.PgConn().ParameterStatus("server_version") >= "15" { // none that we support has one digit
		return "STRATEGY FILE_COPY"
	}
	return ""
}

// admin runs a statement on the administrator's connection.
func admin(t testing.TB, statement string) {
	t.Helper()
	administering.Lock()
	defer administering.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if administrator.IsClosed() { // a test was too slow for its statement
		if err := administer(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := administrator.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
