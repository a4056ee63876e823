package bench

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// crowdConfig builds the peer too, whose modules may not be there.
func crowdConfig(t *testing.T) CrowdConfig {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the loaders need Linux")
	}
	cfg := CrowdConfig{Binary: binary, Progress: testLog{t}}
	var err error
	if cfg.Peer, err = BuildPeer(testContext(t), t.TempDir(), testLog{t}); err != nil {
		t.Logf("without the peer: %v", err)
	}
	return cfg
}

func TestConnections(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Connections(testContext(t), ConnectionsConfig{CrowdConfig: cfg, Connections: []int{101}, Replicas: 2, Rounds: 2, Idle: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Runs[0].Results {
		if m.Base == 0 || m.Bytes == 0 || m.Handshakes == 0 || m.CPU == 0 {
			t.Errorf("%+v", m)
		}
	}
	checkPrints(t, r, "forgewire", "2 × 101")
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Broadcast(testContext(t), BroadcastConfig{CrowdConfig: cfg, Clients: 50, Size: 128, Messages: 3, Backlog: 250, Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Results {
		if m.Single.Rate == 0 || m.Burst.Rate == 0 {
			t.Errorf("%+v", m)
		}
	}
	checkPrints(t, r, "forgewire", "backlogged")
}

func TestResume(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Resume(testContext(t), ResumeConfig{CrowdConfig: cfg, Clients: 20, Missed: 300, Size: 128, Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	checkPrints(t, r, "forgewire", "recovered")
}

func TestPresence(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Presence(testContext(t), PresenceConfig{CrowdConfig: cfg, Clients: 60, Listed: 40, Replicas: 2, Callers: 2, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Results {
		if m.Stats == 0 || m.Lists == 0 {
			t.Errorf("%+v", m)
		}
	}
	checkPrints(t, r, "forgewire", "stats/s")
}

// A loader says what went wrong: a server that is not there, one that does not speak the protocol, and messages
// that are not those that were published.
func TestLoaderReports(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the loaders need Linux")
	}
	for _, c := range []struct{ name, says, word string }{
		{"nobody listens", "", "connect"},
		{"not a WebSocket", "HTTP/1.1 404 Not Found\r\n\r\n", "404"},
		{"a wrong reply", "HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x0bhello world", "hello world"},
		{"the end", "HTTP/1.1 101 Switching Protocols\r\n\r\n\x88\x02\x0b\xb8", "kind 8"},
	} {
		address := "127.0.0.1:9" // nobody listens
		if c.says != "" {
			address = answering(t, c.says)
		}
		crowd, err := startCrowd(testContext(t), binary, "room", []string{address}, 3)
		if err != nil {
			t.Fatal(err)
		}
		_, err = crowd.open(testContext(t), nil)
		if err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err = crowd.stop(); err != nil {
			t.Error(err)
		}
	}
}

// A crowd whose loaders hang is given up when the context ends.
func TestCrowdGivesUp(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the loaders need Linux")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	crowd, err := startCrowd(ctx, binary, "room", []string{answering(t, "HTTP/1.1 101")}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = crowd.open(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err = crowd.stop(); err != nil {
		t.Error(err)
	}
}

// The peer is only built inside this repository.
func TestBuildPeerElsewhere(t *testing.T) {
	t.Chdir(t.TempDir())
	if program, err := BuildPeer(testContext(t), t.TempDir(), testLog{t}); err != nil || program != "" {
		t.Errorf("%q, %v", program, err)
	}
	if err := os.WriteFile("go.mod", []byte("module another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if program, err := BuildPeer(testContext(t), t.TempDir(), testLog{t}); err != nil || program != "" {
		t.Errorf("%q, %v", program, err)
	}
}

// answering is a server that says the same to everybody, and waits.
func answering(t *testing.T, says string) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			_, _ = c.Write([]byte(says))
		}
	}()
	return ln.Addr().String()
}
