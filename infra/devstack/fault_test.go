package devstack

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// valkeySay sends one command and returns the first line of the answer.
func valkeySay(t *testing.T, server *Server, command string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address(server.Port()), testTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestKillAndStartAgain(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{NoValkey: true}).Postgres
	run(t, server, "CREATE TABLE committed AS SELECT 'kept'::text AS v")
	conn := connect(t, server)
	members, err := tree(server.PID())
	if err != nil {
		t.Fatal(err)
	}
	url, pid := server.URL(), server.PID()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, info := range members {
		if alive(t, info.pid) {
			t.Errorf("process %d of the server survives", info.pid)
		}
	}
	if server.PID() != 0 {
		t.Errorf("PID after Kill: %d", server.PID())
	}
	if _, err := conn.Exec(testContext(t), "SELECT 1"); err == nil {
		t.Error("a connection survives Kill")
	}
	if err := server.Kill(); err != nil {
		t.Errorf("second Kill: %v", err)
	}
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(testContext(t)); !errors.Is(err, ErrRunning) {
		t.Errorf("second Start: %v", err)
	}
	if server.URL() != url || server.PID() == pid {
		t.Errorf("after Start: %s, process %d", server.URL(), server.PID())
	}
	if got := ask(t, server, "SELECT v FROM committed"); got != "kept" {
		t.Errorf("committed data: %q", got)
	}
}

func TestPauseHangsAndResumeContinues(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{NoValkey: true}).Postgres
	idle, waiting := connect(t, server), connect(t, server)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(testContext(t), 150*time.Millisecond)
	defer cancel()
	if _, err := idle.Exec(short, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("query on a paused server: %v", err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := waiting.Exec(testContext(t), "SELECT 1")
		answer <- err
	}()
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("query that was waiting: %v", err)
	}
}

func TestPausedServerStopsAndDies(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{NoValkey: true}).Postgres
	connect(t, server)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(testContext(t)); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if err := server.Pause(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Pause after Stop: %v", err)
	}
	if err := server.Resume(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Resume after Stop: %v", err)
	}
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	connect(t, server)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatalf("Kill: %v", err)
	}
}

func TestValkeyFaults(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{}).Valkey
	if server == nil {
		t.Skip("no valkey-server is installed")
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := server.program.knock(shortContext(t), server.Dir(), server.Port(), server.PID()); err == nil {
		t.Error("a paused Valkey answers")
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := valkeySay(t, server, "PING"); got != "+PONG" {
		t.Errorf("after Resume: %q", got)
	}
	if err := server.program.knock(testContext(t), server.Dir(), server.Port(), server.PID()+1); !errors.Is(err, errNotReady) {
		t.Errorf("another process is taken for ours: %v", err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

func shortContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A restart must come back on its port, so it waits for whoever sits on it.
func TestStartWaitsForItsPort(t *testing.T) {
	t.Parallel()
	server := startTest(t, Config{NoValkey: true}).Postgres
	if err := server.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp", address(server.Port()))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- server.Start(testContext(t)) }()
	log := serverLog{path: server.Dir() + "/" + logName}
	err = poll(testContext(t), func() (bool, error) {
		return errors.Is(server.program.cause(log.tail()), errPortTaken), nil
	})
	squatter.Close()
	if err != nil {
		t.Errorf("the log does not tell of the port: %v", err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
}
