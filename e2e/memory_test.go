package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// newMemoryGroup makes a cgroup that may use so much memory, and returns the file that takes processes in.
func newMemoryGroup(t *testing.T, limit int64) (dir, procs string) {
	t.Helper()
	for _, root := range []struct{ dir, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max"},
	} {
		dir = filepath.Join(root.dir, fmt.Sprintf("forgewire-e2e-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, root.file), []byte(strconv.FormatInt(limit, 10)), 0o600) != nil {
			_ = os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			until(t, 5*time.Second, "the end of the cgroup", func() string {
				if err := os.Remove(dir); err != nil {
					return err.Error()
				}
				return ""
			})
		})
		return dir, filepath.Join(dir, "cgroup.procs")
	}
	missing(t, "no memory cgroup can be made here: it takes root")
	return "", ""
}

// plainBinary is forgewire as people run it.
func plainBinary(t *testing.T) string {
	t.Helper()
	binary, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// A replica in 256 MiB is asked for more than 1 GiB at once: 500 publishes of 1 MB, each of which is in memory
// several times, and clients that do not read. The kernel does not kill it, nothing that it answered is lost,
// and then it serves as before.
func TestMemoryLimit(t *testing.T) {
	heavy(t)
	dir, procs := newMemoryGroup(t, 256<<20)
	binary := plainBinary(t)
	c := newCluster(t, 1, options{idle: true, env: []string{"FORGEWIRE_RETENTION_BYTES=10000000000"}})
	r := c.replicas[0]
	r.command = []string{"/bin/sh", "-c", `echo $$ > "$0" && exec "$1" serve --migrate`, procs, binary}
	r.start()
	r.waitReady(30 * time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for range 100 {
		deaf(ctx, t, r.addr)
	}
	answered, refused := publishMuch(ctx, t, r.addr, 250)
	if !r.running() {
		t.Fatalf("the replica ended: %v", r.wait(0))
	}
	t.Logf("%d published, %d refused; at most %s bytes in use", len(answered), refused, peak(dir))
	if len(answered) == 0 || refused == 0 {
		t.Error("this was no test: all or nothing was refused")
	}
	for _, id := range answered {
		if !query[bool](t, c.url, "SELECT EXISTS (SELECT FROM forgewire.messages WHERE channel = $1)", "large:"+strconv.Itoa(id)) {
			t.Errorf("message %d was answered and is lost", id)
		}
	}
	until(t, time.Minute, "serving as before", func() string {
		status, err := publishLarge(ctx, r.addr, 1000, strings.Repeat("x", 500_000))
		if err != nil {
			return err.Error()
		}
		if status != http.StatusOK {
			return fmt.Sprint("status ", status)
		}
		return ""
	})
}

// deaf subscribes a client to a channel, and reads nothing.
func deaf(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/connection/websocket", nil) //nolint:bodyclose // the library closes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	for _, command := range []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"large:0"}}`} {
		if err = ws.Write(ctx, websocket.MessageText, []byte(command)); err != nil {
			t.Fatal(err)
		}
	}
}

// publishMuch publishes n messages of 1 MB at once, each until it is answered or was refused thrice, a tenth
// of them on the channel of the deaf.
func publishMuch(ctx context.Context, t *testing.T, addr string, n int) (answered []int, refused int64) {
	t.Helper()
	data := strings.Repeat("x", 1_000_000)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var no atomic.Int64
	for i := range n {
		wg.Go(func() {
			for range 3 {
				channel := i
				if i%10 == 0 {
					channel = 0
				}
				status, err := publishLarge(ctx, addr, channel, data)
				if err == nil && status == http.StatusOK {
					mu.Lock()
					answered = append(answered, channel)
					mu.Unlock()
					return
				}
				no.Add(1)
			}
		})
	}
	wg.Wait()
	return answered, no.Load()
}

func publishLarge(ctx context.Context, addr string, channel int, data string) (int, error) {
	body, err := json.Marshal(map[string]any{"channel": "large:" + strconv.Itoa(channel), "data": data})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/api/publish", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-API-Key", apiKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK && !bytes.Contains(reply, []byte(`"offset"`)) {
		return 0, fmt.Errorf("%s", reply)
	}
	return resp.StatusCode, err
}

// peak is the most that a cgroup ever used.
func peak(dir string) string {
	for _, file := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return "unknown"
}
