package devstack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDataSurviveRestart(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: filepath.Join(folder(t), "made", "by", "start"), NoValkey: true}
	first := startTest(t, cfg)
	run(t, first.Postgres, "CREATE TABLE kept AS SELECT 'kept'::text AS v")
	if err := first.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(testContext(t)); err != nil {
		t.Fatalf("second Stop: %v", err)
	}
	second := startTest(t, cfg)
	if got := ask(t, second.Postgres, "SELECT v FROM kept"); got != "kept" {
		t.Errorf("after a restart: %q", got)
	}
	if second.Valkey != nil {
		t.Error("Valkey runs although NoValkey is set")
	}
}

func TestEphemeralIsRemoved(t *testing.T) {
	t.Parallel()
	stack := startTest(t, Config{})
	pids := []int{stack.Postgres.PID()}
	if stack.Valkey != nil {
		pids = append(pids, stack.Valkey.PID())
	}
	if err := stack.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stack.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there: %v", stack.dir, err)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("server %d still runs", pid)
		}
	}
}

func TestValkeyKeepsDataOverStop(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{}).Valkey
	if server == nil {
		t.Skip("no valkey-server is installed")
	}
	if got := valkeySay(t, server, "SET key value"); got != "+OK" {
		t.Fatalf("SET: %q", got)
	}
	url := server.URL()
	if err := server.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := valkeySay(t, server, "EXISTS key"); got != ":1" {
		t.Errorf("after a restart: EXISTS %q", got)
	}
	if server.URL() != url {
		t.Errorf("address changed from %s to %s", url, server.URL())
	}
}

// Other goroutines fork all the time, and a fork must not keep the lock.
func TestLockEndsWithRelease(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	ctx, cancel := context.WithCancel(testContext(t))
	forks := make(chan struct{})
	go func() {
		defer close(forks)
		for ctx.Err() == nil {
			_ = exec.CommandContext(ctx, "true").Run()
		}
	}()
	defer func() { cancel(); <-forks }()
	for range 2000 {
		lock, err := lockFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.release(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondStartOnSameFolder(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: folder(t), NoValkey: true}
	stack := startTest(t, cfg)
	began := time.Now()
	if _, err := Start(testContext(t), cfg); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("Start: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	if _, err := StartPostgres(testContext(t), stack.Postgres.Dir(), nil, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("StartPostgres: %v", err)
	}
	if got := ask(t, stack.Postgres, "SELECT 'fine'"); got != "fine" {
		t.Errorf("the first server answers %q", got)
	}
}

func TestFailedStartExplainsAndCleansUp(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	_, err := Start(testContext(t), Config{Dir: dir, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("Start: %v", err)
	}
	// The folder is free again, and its cluster whole.
	startTest(t, Config{Dir: dir, NoValkey: true})
}

// Cancelled in the middle of initdb, which has a child of its own.
func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := Start(ctx, Config{Dir: dir})
		failed <- err
	}()
	data := filepath.Join(dir, postgresFolder)
	err := poll(testContext(t), func() (bool, error) {
		_, err := os.Stat(filepath.Join(data, staging, "pg_wal"))
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("Start: %v", err)
	}
	mustBeEmpty(t, data)
	startTest(t, Config{Dir: dir, NoValkey: true})
}

func TestStopWithEndedContext(t *testing.T) {
	t.Parallel()
	stack := startTest(t, Config{NoValkey: true})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := stack.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if pid := stack.Postgres.PID(); pid != 0 {
		t.Errorf("PID after Stop: %d", pid)
	}
}

func TestSweepRemovesOnlyAbandonedFolders(t *testing.T) {
	t.Parallel()
	parent := folder(t)
	old := time.Now().Add(-2 * leftoverAge)
	make := func(name string, changed time.Time) string {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, changed, changed); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	abandoned := make(temporaryPrefix+"abandoned", old)
	locked := make(temporaryPrefix+"locked", old)
	fresh := make(temporaryPrefix+"fresh", time.Now())
	stranger := make("stranger", old)
	lock, err := lockFolder(locked)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.release() }()
	sweep(parent)
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("abandoned folder: %v", err)
	}
	for _, dir := range []string{locked, fresh, stranger} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}
