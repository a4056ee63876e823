package devstack

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	stack := startTest(t, Config{NoValkey: true, Settings: map[string]string{"work_mem": "7MB", "Max_Connections": "33"}})
	for name, want := range map[string]string{
		"work_mem": "7MB", "max_connections": "33", "shared_buffers": "64MB", "fsync": "on",
		"listen_addresses": "127.0.0.1", "server_encoding": "UTF8",
	} {
		if got := ask(t, stack.Postgres, "SHOW "+name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := ask(t, stack.Postgres, "SELECT current_database()"); got != databaseName {
		t.Errorf("database %s", got)
	}
	socket := filepath.Join(stack.Postgres.Dir(), ".s.PGSQL.*")
	if found, err := filepath.Glob(socket); err != nil || len(found) == 0 {
		t.Errorf("no socket %s: %v", socket, err)
	}
}

func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"port", "LISTEN_ADDRESSES", "data_directory", "", "a=b", "a b", "-c"} {
		if _, err := newPostgres(map[string]string{name: "1"}); err == nil {
			t.Errorf("setting %q is accepted", name)
		}
	}
	if _, err := newPostgres(map[string]string{"auto_explain.log_min_duration": "1s"}); err != nil {
		t.Error(err)
	}
}

// A standby is made by PostgreSQL's own program and started like any data folder.
func TestStandby(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	primary := startTest(t, Config{NoValkey: true}).Postgres
	run(t, primary, "CREATE TABLE copied AS SELECT 'copied'::text AS v")
	dir := filepath.Join(folder(t), "standby")
	backup, err := Command(ctx, "pg_basebackup", "-d", primary.URL(), "-D", dir, "-R", "-c", "fast", "-X", "stream")
	if errors.Is(err, ErrNoPostgres) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if output, err := backup.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	standby, err := StartPostgres(ctx, dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stopTest(t, standby)
	if got := ask(t, standby, "SELECT v || pg_is_in_recovery() FROM copied"); got != "copiedtrue" {
		t.Errorf("the standby answers %q", got)
	}
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestKilledInitdbIsRepaired(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, name := range []string{staging, staging + "/global", "base"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	server, err := StartPostgres(testContext(t), dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, staging)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("staging folder: %v", err)
	}
}

func TestStrangersFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(testContext(t), dir, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "holds files") {
		t.Errorf("StartPostgres: %v", err)
	}
	if _, err := StartPostgres(testContext(t), "", nil, nil); err == nil {
		t.Error("no folder is accepted")
	}
}

func TestDataOfUnknownVersion(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.WriteFile(filepath.Join(dir, versionFile), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(testContext(t), dir, nil, nil)
	if !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), "made by PostgreSQL 9") {
		t.Errorf("StartPostgres: %v", err)
	}
}

func TestCommandUnknownProgram(t *testing.T) {
	t.Parallel()
	if _, err := Command(testContext(t), "pg_no_such_program"); !errors.Is(err, ErrNoPostgres) {
		t.Errorf("Command: %v", err)
	}
}

// fakeInstallation makes programs that only tell a version.
func fakeInstallation(t *testing.T, version string) string {
	t.Helper()
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
	syscall.ForkLock.RLock() // see copySelf
	defer syscall.ForkLock.RUnlock()
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func folders(dirs ...string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, dir := range dirs {
			if !yield(dir) {
				return
			}
		}
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	ancient, beta, current := fakeInstallation(t, "9.6.24"), fakeInstallation(t, "19beta1"), fakeInstallation(t, "17.2 (Debian 17.2-1)")
	noDownload := func(context.Context, *account, *progress) (string, error) {
		return "", errors.New("no network")
	}
	find := finder{installed: folders("/nowhere", ancient, beta, current), download: noDownload}
	for major, want := range map[int]string{0: beta, 9: ancient, 17: current} {
		if got, err := find.locate(testContext(t), major, unprivileged(), nil); got != want || err != nil {
			t.Errorf("locate(%d) = %s, %v; want %s", major, got, err, want)
		}
	}
	find.installed = folders(ancient)
	_, err := find.locate(testContext(t), 0, unprivileged(), nil)
	if !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), "9 in "+ancient) || !strings.Contains(err.Error(), "no network") {
		t.Errorf("locate: %v", err)
	}
}

func TestParsing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for text, want := range map[string]pidFile{
		"": {}, "x\n": {}, "12": {pid: 12},
		"12\n/d\n1\n5432\n/s\nlocalhost\n1 2\nready   \n": {pid: 12, status: "ready"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readPIDFile(dir); got != want {
			t.Errorf("readPIDFile(%q) = %+v", text, got)
		}
	}
	if got := socketFolder("/" + strings.Repeat("x", 100)); got != "" {
		t.Errorf("socket in a long folder: %s", got)
	}
}
