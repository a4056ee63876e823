package db_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// startPgBouncer puts a PgBouncer in transaction mode, with two server connections, before a database.
func startPgBouncer(t *testing.T, database string) string {
	t.Helper()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("pgbouncer is not installed: what a pooler in transaction mode does to statements is not tested")
	}
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	password, _ := u.User.Password()
	file := filepath.Join(t.TempDir(), "pgbouncer.ini")
	ini := fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\n"+
		"auth_type = trust\nauth_file = %s.users\npool_mode = transaction\ndefault_pool_size = 2\n", u.Hostname(), u.Port(), port, file)
	users := fmt.Sprintf("%q %q\n", u.User.Username(), password)
	if err = errors.Join(os.WriteFile(file, []byte(ini), 0o644), os.WriteFile(file+".users", []byte(users), 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, file)
	if os.Getuid() == 0 { // which it refuses to run as
		for dir := filepath.Dir(file); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err = os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	until(t, "pgbouncer listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	u.Host = address
	return u.String()
}

// hammer runs statements of several shapes from more clients than the pooler has servers.
func hammer(t *testing.T, pool *pgxpool.Pool) (failed []error) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				var got int
				err := pool.QueryRow(t.Context(), fmt.Sprintf("SELECT $1::int + %d FROM pg_sleep(0.001)", j%5), i).Scan(&got)
				if err == nil && got != i+j%5 {
					err = fmt.Errorf("%d + %d is not %d", i, j%5, got)
				}
				if err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}

func TestPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	address := startPgBouncer(t, dbtest.NewEmpty(t))
	var log bytes.Buffer
	pool := newPool(t, db.PoolConfig{URL: address, MaxConns: 8, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if failed := hammer(t, pool); failed != nil {
		t.Errorf("%d failed, the first with: %v", len(failed), failed[0])
	}
	pool.Close()
	if n := strings.Count(log.String(), "behind a pooler"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	// What is chosen counts, and shows that the test is one.
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	pool = newPool(t, db.PoolConfig{URL: address + separator + "default_query_exec_mode=cache_statement", MaxConns: 8})
	if failed := hammer(t, pool); failed == nil {
		t.Error("this pooler keeps statements: the test shows nothing")
	}
}

func TestNoPooler(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	pool := newPool(t, db.PoolConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if failed := hammer(t, pool); failed != nil {
		t.Error(failed[0])
	}
	var prepared int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&prepared); err != nil || prepared == 0 {
		t.Errorf("%d prepared statements, %v", prepared, err)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}
	// Over TCP, the server looks for clients that are gone.
	at, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	var idle, asked string
	err = pool.QueryRow(t.Context(), `SELECT current_setting('tcp_keepalives_idle'), coalesce(host(inet_server_addr()), '')`).Scan(&idle, &asked)
	if err != nil || asked != "" && idle != "10" || asked == "" && at.Hostname() != "" {
		t.Errorf("tcp_keepalives_idle is %s at %q, %v", idle, asked, err)
	}
}
