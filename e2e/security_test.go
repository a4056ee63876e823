package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What floods the door keeps nobody out and ends in time: the next client is served as ever.
func TestFloods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{})
	r := c.replicas[0]
	healthy := c.subscribe(0, "chat:1")
	delivers := func(id string) {
		t.Helper()
		r.mustPublish("chat:1", map[string]string{"id": id})
		healthy.waitFor("chat:1", id, 10*time.Second)
	}

	// Half a request line, half the headers, and nothing at all.
	var slow []net.Conn
	for i := range 300 {
		conn := dialTCP(t, r)
		slow = append(slow, conn)
		_, _ = io.WriteString(conn, []string{"GE", "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: 1", ""}[i%3]) // it may be gone already
	}
	serves(t, r)
	delivers("1")
	for _, conn := range slow {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil && isTimeout(err) {
			t.Fatal("a connection that never finishes its header is kept")
		}
	}

	for name, x := range map[string]struct {
		request string
		status  int
	}{
		"a large header":    {"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		"many headers":      {"GET /livez HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20_000) + "\r\n", 431},
		"a long address":    {"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"two lengths":       {"POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
		"length and chunks": {"POST /api/publish HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\nContent-Length: 2\r\n\r\n{}", 501},
		"no host":           {"GET /livez HTTP/1.1\r\n\r\n", 400},
		"another host":      {"GET /api/stats HTTP/1.1\r\nHost: livez\r\n\r\n", 401},
		"a host's slash":    {"GET /api/stats HTTP/1.1\r\nHost: evil.test/livez?\r\n\r\n", 400},
		"a host's path":     {"GET http://evil.test/api/stats HTTP/1.1\r\nHost: x\r\nX-Original-Url: /livez\r\nX-Forwarded-Host: x\r\n\r\n", 401},
		"dots":              {"GET /livez/../api/stats HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		"a doubled slash":   {"GET //api/stats HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		"a subprotocol without end": {"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: b" + strings.Repeat(" ", 8000) + "c, " + strings.Repeat(",", 4000) + "\r\n\r\n", 101},
		"deflate offered": {"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 101},
	} {
		conn := dialTCP(t, r)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, x.request) // it answers before it has read all
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if resp.StatusCode != x.status {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, x.status)
		}
		if resp.Header.Get("Sec-Websocket-Extensions") != "" {
			t.Errorf("%s: messages may be compressed before anybody has said who he is", name)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
	}

	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte{' '}, 64<<20))
	_ = z.Close()
	for path, body := range map[string]io.Reader{"/api/publish": &bomb, "/api/batch": strings.NewReader(strings.Repeat("[", 5<<20)), "/api/info": strings.NewReader(strings.Repeat("[", 1<<20))} {
		req, err := http.NewRequest(http.MethodPost, "http://"+r.addr+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", apiKey)
		req.Header.Set("Content-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	serves(t, r)
	delivers("2")
}

func dialTCP(t *testing.T, r *replica) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // io.Copy returns it as it is
	return ok && e.Timeout()
}

func serves(t *testing.T, r *replica) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + r.addr + "/livez")
	if err != nil {
		t.Fatalf("it serves nobody else: %v", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("it serves nobody else: %d", resp.StatusCode)
	}
}

// Whatever a client sends and whatever goes wrong, no token and no key is in the log or in an answer, also where
// everything is logged.
func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{env: []string{"FORGEWIRE_LOG_LEVEL=debug",
		`FORGEWIRE_HOOKS={"connect":{"endpoint":"http://127.0.0.1:1/connect?key=secret-in-hook-url","static_headers":{"X-Key":"secret-in-hook-header"},"http_headers":["Cookie"]}}`,
		"FORGEWIRE_UPSTREAM_URL=http://127.0.0.1:1/v1?key=secret-in-upstream-url", "FORGEWIRE_UPSTREAM_KEY=secret-upstream-key"}})
	r := c.replicas[0]
	good, bad := sign(t, tokenSecret, "joe", time.Hour), "secret-bad-token.secret.secret"
	sent := 0
	send := func(method, path, body string, headers ...string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+r.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		client := http.Client{Timeout: 10 * time.Second}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer resp.Body.Close()
		first := make([]byte, 64<<10)
		n, _ := resp.Body.Read(first) // a stream does not end
		for _, secret := range []string{"secret-", apiKey, tokenSecret, good} {
			if strings.Contains(string(first[:n]), secret) {
				t.Errorf("%s %s answers with a secret: %s", method, path, first[:n])
			}
		}
		sent++
	}
	for _, tok := range []string{good, bad} {
		send("GET", "/v1/channels/chat:1/events?token="+tok, "")
		send("GET", "/v1/channels/chat:1/events?since=%zz&token="+tok, "")
		send("GET", "/nothing?token="+tok+"&api_key=secret-query-key", "")
		send("GET", `/connection/sse?cf_connect={"id":1,"connect":{"token":"`+tok+`"}}`, "")
		send("POST", "/connection/http_stream", `{"id":1,"connect":{"token":"`+tok+`"}}`, "Cookie", "session=secret-cookie")
		send("POST", "/connection/http_stream", `{"id":1,"connect":{}}`, "Cookie", "session=secret-cookie")
		send("GET", "/v1/runs", "", "Authorization", "Bearer "+tok)
		send("GET", "/api/stats", "", "X-API-Key", tok)
	}
	for _, key := range []string{"fw_aaaaaaaaaaaaaaaa_" + strings.Repeat("secret", 8) + "aaaa", "secret-' OR 1=1--", apiKey} {
		send("POST", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"secret-prompt"}]}`, "Authorization", "Bearer "+key, "Cache-Control", "no-store")
		send("POST", "/api/publish", `{"channel":"chat:1","data":{"secret-data`, "Authorization", "apikey "+key)
	}
	r.term()
	if err := r.wait(20 * time.Second); err != nil {
		t.Error(err)
	}
	log := r.log.String()
	if sent == 0 || !strings.Contains(log, "a hook did not answer as it must") || !strings.Contains(log, "a client's token was refused") {
		t.Error("the log is not one of these requests:\n" + log)
	}
	for _, secret := range []string{"secret-", "secretsecret", apiKey, tokenSecret, good, strings.Split(good, ".")[2]} {
		if at := strings.Index(log, secret); at >= 0 {
			t.Errorf("the log has %q: %s", secret, fmt.Sprint(log[max(0, at-300):min(len(log), at+100)]))
		}
	}
}
