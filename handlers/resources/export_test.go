package resources_test

import (
	"bufio"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"forgewire/handlers/stream"
)

const makeRuns = `INSERT INTO forgewire.runs SELECT 'run_' || translate(lpad(n::text, 8, '0'), '0189', 'abcd'), now() - n * interval '1 ms', 'acme', 'a', '', 'chat/completions',
	'm', 'u', 200, 'miss', 'h', 1, 2, 3, 0, NULL, '1 ms', '' FROM generate_series(1, $1::int) n`

func (s *stack) runs(t *testing.T, n int) {
	t.Helper()
	for _, sql := range []string{"SELECT forgewire.make_run_partitions()", strings.Replace(makeRuns, "$1::int", strconv.Itoa(n), 1)} {
		if _, err := s.replicas[0].pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// An export has all rows, in every encoding, and one that was cut goes on behind its last line.
func TestExports(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	const all, read = 4*stream.ChunkRows + 500, 2*stream.ChunkRows + 345
	s.runs(t, all)
	r := s.replicas[0]
	for encoding, decode := range map[string]func(io.Reader) io.Reader{
		"gzip": func(r io.Reader) io.Reader { return must(gzip.NewReader(r)) },
		"br":   func(r io.Reader) io.Reader { return brotli.NewReader(r) },
		"zstd": func(r io.Reader) io.Reader { return must(zstd.NewReader(r)) },
	} {
		a := r.expect(t, 200, "", s.acme, "GET", "/v1/runs/export", "", "Accept-Encoding: "+encoding)
		if a.Header.Get("Content-Encoding") != encoding || len(a.body) > 2<<20 {
			t.Errorf("%s: %v, %d bytes", encoding, a.Header, len(a.body))
		}
		if lines := strings.Count(string(must(io.ReadAll(decode(strings.NewReader(a.body))))), "\n"); lines != all {
			t.Errorf("%s: %d lines", encoding, lines)
		}
	}
	lines := strings.Split(strings.TrimSpace(r.expect(t, 200, "", s.acme, "GET", "/v1/runs/export", "").body), "\n")
	_, cursor, _ := strings.Cut(lines[read-1], `"cursor":"`)
	rest := r.expect(t, 200, "", s.acme, "GET", "/v1/runs/export?after="+strings.TrimSuffix(cursor, `"}`), "").body
	if got := strings.Split(strings.TrimSpace(rest), "\n"); len(got) != all-read || got[0] != lines[read] {
		t.Errorf("%d lines behind the cursor", len(got))
	}
	if table := r.expect(t, 200, "", s.evil, "GET", "/v1/runs/export", "", "Accept: text/csv").body; strings.Count(table, "\n") != 1 || !strings.HasPrefix(table, "id,started,") {
		t.Error(table)
	}
	r.expect(t, 400, "invalid_parameter", s.acme, "GET", "/v1/runs/export?after=x", "")
	r.expect(t, 401, "missing_api_key", "", "GET", "/v1/runs/export", "")
}

// A client that reads next to nothing holds no connection to the database while it does, and one that leaves ends
// its export.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	s.runs(t, 20500)
	r := s.replicas[0]
	conn := must(net.Dial("tcp", strings.TrimPrefix(r.url, "http://")))
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /v1/runs/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+s.acme+"\r\n\r\n")
	one := bufio.NewReaderSize(conn, 16)
	free := 0 // how often in turn nothing was held
	eventually(t, "no connection of the database is held", func() bool {
		if _, err := one.ReadByte(); err != nil {
			t.Fatal(err)
		}
		free++
		if r.pool.Stat().AcquiredConns() != 0 {
			free = 0
		}
		return free == 200
	})
	_ = conn.Close() // the end of the test waits for the handler
}

// Pages of other origins may not read, those of this host may; browsers are told what an answer is.
func TestBrowsers(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	for origin, allowed := range map[string]bool{r.url: true, "https://evil.example": false} {
		a := r.do(t, "", "OPTIONS", "/v1/prompts/x", "", "Origin: "+origin, "Access-Control-Request-Method: PATCH", "Access-Control-Request-Headers: authorization,if-match")
		if got := a.Header.Get("Access-Control-Allow-Origin") == origin; got != allowed || a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %v", origin, a.StatusCode, a.Header)
		}
		a = r.do(t, s.acme, "GET", "/v1/prompts", "", "Origin: "+origin)
		if got := a.Header.Get("Access-Control-Allow-Origin") == origin; got != allowed || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", origin, a.Header)
		}
	}
}
