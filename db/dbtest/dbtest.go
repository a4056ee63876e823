// Package dbtest gives tests a real, migrated PostgreSQL database each. NOTIFY, advisory locks and the
// log's single sequence all belong to a database, so a database for each test keeps tests apart.
package dbtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
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
)

// Main is a package's TestMain: it starts one private server, migrates a template, runs the tests, and
// returns the exit code.
func Main(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	stack, err = devstack.Start(ctx, devstack.Config{NoValkey: true, Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, "dbtest:", err)
		return 1
	}
	defer stack.Stop(context.Background()) //nolint:errcheck // the process ends here
	if err = db.Migrate(ctx, stack.Postgres.URL()); err != nil {
		fmt.Fprintln(os.Stderr, "dbtest:", err)
		return 1
	}
	return m.Run()
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
	admin(t, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template))
	t.Cleanup(func() { admin(t, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name)) })
	u, err := url.Parse(stack.Postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	if template == "forgewire" {
		// A copy has the template's epoch and numbers; a log of its own is what a test expects.
		c, err := pgx.Connect(context.Background(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if _, err = c.Exec(context.Background(), "UPDATE forgewire.log SET epoch = substr(md5(gen_random_uuid()::text), 1, 12)"); err != nil {
			t.Fatal(err)
		}
	}
	return u.String()
}

// admin runs a statement while connected to a database that nobody copies.
func admin(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	u, err := url.Parse(stack.Postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/postgres"
	c, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatalf("connect to the test server: %v", err)
	}
	defer c.Close(ctx)
	if _, err = c.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
