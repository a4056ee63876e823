package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forgewire/handlers"
)

// However many connect, only so many connections are held, WebSockets among them; who is too many is let go at once, and
// whoever comes when others have left is served.
func TestConnectionFlood(t *testing.T) {
	t.Parallel()
	var sockets atomic.Int64
	sockets.Store(2)
	d := &door{most: 5, sockets: sockets.Load, logger: slog.New(slog.DiscardHandler)}
	server := &http.Server{ConnState: d.state, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != handlers.HandshakePath {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		sockets.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		t.Cleanup(func() { _ = conn.Close() })
	})}
	address := serving(t, server)
	dial := func() net.Conn { return dialed(t, address) }
	serves := func(conn net.Conn, path string) bool {
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\n\r\n") // it may be closed by then
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil
	}
	held := []net.Conn{dial(), dial(), dial()}
	for i, conn := range held {
		if !serves(conn, "/") {
			t.Fatalf("connection %d is not served", i)
		}
	}
	for range 50 {
		if serves(dial(), "/") {
			t.Fatal("one too many is served")
		}
	}
	if n := d.held.Load(); n > 3+50 {
		t.Errorf("%d are held", n)
	}
	if !serves(held[0], handlers.HandshakePath) { // it counts as before
		t.Fatal("no upgrade")
	}
	if serves(dial(), "/") {
		t.Error("one too many is served after an upgrade")
	}
	_ = held[1].Close()
	for end := time.Now().Add(20 * time.Second); !serves(dial(), "/"); {
		if time.Now().After(end) {
			t.Fatal("who comes when others have left is not served")
		}
	}
	_ = held[2].Close()
	for end := time.Now().Add(20 * time.Second); !serves(dial(), handlers.HandshakePath); { // its first request
		if time.Now().After(end) {
			t.Fatal("a handshake is not served")
		}
	}
	_ = server.Close()
	for end := time.Now().Add(20 * time.Second); d.held.Load() != 0; runtime.Gosched() { // each was counted out once
		if time.Now().After(end) {
			t.Fatalf("%d are held by a server that is closed", d.held.Load())
		}
	}
}

// A flood is told of in one line for each ten seconds, with how many there were.
func TestConnectionFloodIsLoggedSeldom(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := &door{most: 0, logger: slog.New(slog.NewTextHandler(&log, nil))}
	now := time.Now()
	for range 3 {
		for range 100 {
			d.refused.Add(1)
			d.tell(now)
		}
		now = now.Add(refusedEvery)
	}
	if got := log.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "refused=1 ") || strings.Count(got, "refused=100 ") != 2 {
		t.Errorf("the log:\n%s", got)
	}
}

// A replica has such a door, as wide as its clients need it.
func TestReplicaHasADoor(t *testing.T) {
	t.Parallel()
	a := newTestApp(t, nil)
	conn, peer := net.Pipe()
	defer peer.Close()
	for range a.cfg.MaxConnections + spareConnections {
		a.server.ConnState(peer, http.StateNew)
	}
	if _, err := probe(conn, peer); err != nil {
		t.Fatalf("closed too early: %v", err)
	}
	a.server.ConnState(peer, http.StateNew)
	if _, err := probe(conn, peer); err == nil {
		t.Error("not closed")
	}
}

// probe sends a byte through a pipe.
func probe(to, from net.Conn) (byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = to.SetDeadline(deadline)
	written := make(chan error, 1)
	go func() {
		_, err := from.Write([]byte("x"))
		written <- err
	}()
	b := make([]byte, 1)
	_, err := io.ReadFull(to, b)
	if e := <-written; err == nil {
		err = e
	}
	return b[0], err
}
