package bench

import (
	"context"
	"errors"
	"net"
	"net/url"
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
	cfg := CrowdConfig{Setup: Setup{Binary: binary, Progress: testLog{t}}}
	var err error
	if cfg.Peer, err = BuildPeer(testContext(t), t.TempDir(), testLog{t}); err != nil {
		t.Logf("without the peer: %v", err)
	}
	return cfg
}

func TestConnections(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Connections(testContext(t), ConnectionsConfig{CrowdConfig: cfg, Connections: []int{101}, Replicas: 2, Rounds: 2, Rate: 300, Idle: 100 * time.Millisecond, Settle: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.table(connectionsHeld).Rows {
		for _, name := range []string{"memory without", memoryEach, firstHandshakes, handshakes, "CPU of one"} {
			if f := row.figure(name); f == nil || f.Value == 0 {
				t.Errorf("%s of %+v", name, row)
			}
		}
	}
	for _, row := range r.table(connectionsOpen).Rows {
		if row.Tally.Success() != 1 || row.times(handshake).Count != int64(row.Tally.Asked) {
			t.Errorf("%+v", row)
		}
	}
	checkPrints(t, r, "forgewire, 2 × 101")
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Broadcast(testContext(t), BroadcastConfig{CrowdConfig: cfg, Clients: 50, Size: 128, Messages: 3, Backlog: 250, Rounds: 2, Rate: 20, Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.table(broadcastTable).Rows {
		if row.figure(singly).Value == 0 || row.figure(backlogged).Value == 0 {
			t.Errorf("%+v", row)
		}
	}
	for _, row := range r.table(broadcastOpen).Rows {
		if d := row.times(delivery); d.Count != 20*50 || d.Max > 60_000 {
			t.Errorf("%+v", d)
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
	for _, row := range r.table(resumeTable).Rows {
		if row.Tally.Succeeded != 40 || row.times(comeBack).Count != 40 {
			t.Errorf("%+v", row)
		}
	}
	checkPrints(t, r, "forgewire", "recovered")
}

func TestPresence(t *testing.T) {
	t.Parallel()
	cfg := crowdConfig(t)
	r, err := Presence(testContext(t), PresenceConfig{CrowdConfig: cfg, Clients: 60, Listed: 40, Replicas: 2, Callers: 2, Rate: 100, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.table(presenceTable).Rows {
		if row.figure(statsAsked).Value == 0 || row.figure("lists").Value == 0 {
			t.Errorf("%+v", row)
		}
	}
	for _, row := range r.table(presenceOpen).Rows {
		if row.Tally.Asked != 20 || row.Tally.Success() != 1 {
			t.Errorf("%+v", row.Tally)
		}
	}
	checkPrints(t, r, "forgewire", "stats, /s")
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
		crowd, err := startCrowd(testContext(t), binary, "room", contenderAt(address), 3)
		if err != nil {
			t.Fatal(err)
		}
		_, err = crowd.open(testContext(t), 0, nil, 0)
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
	crowd, err := startCrowd(ctx, binary, "room", contenderAt(answering(t, "HTTP/1.1 101")), 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = crowd.open(ctx, 0, nil, 0); !errors.Is(err, context.DeadlineExceeded) {
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

func contenderAt(address string) *contender {
	return &contender{urls: []*url.URL{{Scheme: "http", Host: address}}}
}

// Where clients come at a rate, those that do not come through are counted by kind.
func TestCrowdCountsFailures(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the loaders need Linux")
	}
	for says, kind := range map[string]string{
		"": "connection refused", "HTTP/1.1 503 Service Unavailable\r\n\r\n": "status 503", "HTTP/1.1 101 Switching Protocols\r\n\r\n\x88\x02\x03\xf5": "connection closed",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x28{\"id\":1,\"error\":{\"code\":101,\"message\":\"\"}}": "code 101",
	} {
		address := "127.0.0.1:9" // nobody listens
		if says != "" {
			address = answering(t, says)
		}
		crowd, err := startCrowd(testContext(t), binary, "room", contenderAt(address), 6)
		if err != nil {
			t.Fatal(err)
		}
		all, err := crowd.open(testContext(t), 100, nil, 0)
		if err != nil || all.tally.Asked != 6 || all.tally.Errors[kind] != 6 {
			t.Errorf("%s: %+v, %v", kind, all.tally, err)
		}
		if err = crowd.stop(); err != nil {
			t.Error(err)
		}
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
