package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"
)

// exportRoom is what an export of any length may take above what the replica had before: some 30 MB on a machine that
// is idle, and 36 to 49 MB, as measured, where the collector waits for a CPU that others use.
const exportRoom = 64 << 20

// An export takes the same memory however many rows it has, in each encoding.
func TestExportInConstantMemory(t *testing.T) {
	heavy(t)
	rows := 100_000
	if long() {
		rows = 1_000_000
	}
	c := newCluster(t, 1, options{idle: true})
	r := c.replicas[0]
	r.command = []string{plainBinary(t), "serve", "--migrate"}
	r.start()
	r.waitReady(30 * time.Second)
	execute(t, c.url, "SELECT forgewire.make_run_partitions()")
	execute(t, c.url, `INSERT INTO forgewire.runs SELECT 'run_' || n, now() - n * interval '1 ms', 'default', 'ans_' || n, '', 'chat/completions',
		'gpt-4o-mini', 'default', 200, 'miss', repeat('h', 64), 300, 100, 3, 0, NULL, '800 ms', '' FROM generate_series(1, $1::int) n`, rows)
	idle := residentMemory(t, r)
	for _, encoding := range []string{"identity", "gzip", "br", "zstd"} {
		forgetPeak(t, r)
		if size, lines := export(t, r, encoding); encoding == "identity" && lines != rows || size == 0 {
			t.Errorf("%s: %d lines, %d bytes", encoding, lines, size)
		}
		above := peakMemory(t, r) - idle
		t.Logf("%s: %d rows took %.1f MB above %.1f MB", encoding, rows, float64(above)/1e6, float64(idle)/1e6)
		if above > exportRoom {
			t.Errorf("%s: an export takes %d bytes", encoding, above)
		}
	}
}

// export reads an export to its end.
func export(t *testing.T, r *replica, encoding string) (size, lines int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.addr+"/v1/runs/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Accept-Encoding", encoding) // so that it is not decoded here
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := resp.Header.Get("Content-Encoding")
	if resp.StatusCode != http.StatusOK || got != encoding && encoding != "identity" {
		t.Fatalf("%s: status %d, encoding %q", encoding, resp.StatusCode, got)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		size, lines = size+n, lines+bytes.Count(buf[:n], []byte("\n"))
		if err == io.EOF {
			return size, lines
		}
		if err != nil {
			t.Fatalf("%s: after %d bytes: %v", encoding, size, err)
		}
	}
}

// forgetPeak makes the kernel forget the most that a process has had in memory.
func forgetPeak(t *testing.T, r *replica) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.pid()), []byte("5"), 0); err != nil {
		t.Skipf("this system does not tell what a process had at most: %v", err)
	}
}

// peakMemory is the most that a process had in memory since then.
func peakMemory(t *testing.T, r *replica) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	line, _, _ := bytes.Cut(rest, []byte(" kB"))
	kB, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}
