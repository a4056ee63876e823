package devstack

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// testTimeout is far above what any test needs, and below go test's own.
const testTimeout = 90 * time.Second

// TestMain is also the entry of the helper processes that tests start from this binary.
func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		if err := runHelper(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// folder returns a temporary folder that the servers can reach, also for root.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := MkdirTemp("", "devstack-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// startTest starts a stack that ends with the test.
func startTest(t *testing.T, cfg Config) *Stack {
	t.Helper()
	stack, err := Start(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stack.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return stack
}

// stopTest is for a deferred call.
func stopTest(t *testing.T, server *Server) {
	t.Helper()
	if err := server.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// connect opens a connection that ends with the test.
func connect(t *testing.T, server *Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// run executes a statement on a connection of its own.
func run(t *testing.T, server *Server, statement string) {
	t.Helper()
	conn := connect(t, server)
	if _, err := conn.Exec(testContext(t), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	conn.Close(context.Background())
}

// ask returns the one value of a query on a connection of its own.
func ask(t *testing.T, server *Server, query string) string {
	t.Helper()
	conn := connect(t, server)
	var value string
	if err := conn.QueryRow(testContext(t), query).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	conn.Close(context.Background())
	return value
}

func alive(t *testing.T, pid int) bool {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if info.pid == pid {
			return !info.dead()
		}
	}
	return false
}
