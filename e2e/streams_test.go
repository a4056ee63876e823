package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// The published JavaScript client works unchanged over each of its transports, also when every command that
// travels apart reaches the other replica.
func TestTransports(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat("node_modules/centrifuge")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("Node or the JavaScript client is not installed: run e2e/setup.sh")
	}
	c := newCluster(t, 2, options{})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "node/transports.mjs")
	cmd.Env = append(os.Environ(), "A=http://"+c.replicas[0].addr, "B=http://"+c.replicas[1].addr)
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "ok   "); err != nil || n != 6 {
		t.Fatalf("%d of 6 are ok: %v\n%s", n, err, out)
	}
}

// eventReader follows a channel's events as EventSource does: it comes back, to whichever replica is up, with
// the last id.
type eventReader struct {
	mu           sync.Mutex
	last         string // guarded by mu, like all below
	got          []string
	resets, ends int
}

func (e *eventReader) follow(ctx context.Context, c *cluster, first int, channel string) {
	for i := first; ctx.Err() == nil; i++ {
		e.once(ctx, "http://"+c.replicas[i%len(c.replicas)].addr+"/v1/channels/"+url.PathEscape(channel)+"/events")
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (e *eventReader) once(ctx context.Context, address string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return
	}
	e.mu.Lock()
	if e.last != "" {
		req.Header.Set("Last-Event-ID", e.last)
	}
	e.mu.Unlock()
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	event, id := "", ""
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		e.mu.Lock()
		switch field {
		case "event":
			event = value
		case "id":
			id = value
		case "data":
			switch event {
			case "reset":
				e.resets++
			case "end":
				e.ends++
			default:
				e.got = append(e.got, value)
			}
		case "":
			if id != "" {
				e.last = id
			}
			event, id = "", ""
		}
		e.mu.Unlock()
	}
}

// Readers of plain events see every message once and in order over a rolling restart, and are told to go
// rather than cut.
func TestEventsOverRollingRestart(t *testing.T) {
	t.Parallel()
	const readers = 10
	c := newCluster(t, 2, options{})
	ctx, cancel := context.WithCancel(t.Context())
	all := make([]*eventReader, readers)
	var wg sync.WaitGroup
	for i := range all {
		all[i] = &eventReader{}
		wg.Go(func() { all[i].follow(ctx, c, i, "room:1") })
	}
	defer wg.Wait()
	defer cancel()
	for i, e := range all {
		until(t, 20*time.Second, "a reader's begin", func() string {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.last == "" {
				return fmt.Sprintf("reader %d has no position", i)
			}
			return ""
		})
	}
	n := 0
	publish := func(r *replica, count int) {
		for range count {
			r.mustPublish("room:1", n)
			n++
		}
	}
	for i, r := range c.replicas {
		other := c.replicas[1-i]
		publish(r, 50)
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			r.term()
			r.start()
			r.waitReady(30 * time.Second)
		}()
		publish(other, 50)
		<-restarted
	}
	publish(c.replicas[0], 50)
	for i, e := range all {
		until(t, 20*time.Second, "everything's arrival", func() string {
			e.mu.Lock()
			defer e.mu.Unlock()
			if len(e.got) < n {
				return fmt.Sprintf("reader %d has %d of %d", i, len(e.got), n)
			}
			return ""
		})
		e.mu.Lock()
		for k, data := range e.got {
			if data != fmt.Sprint(k) {
				t.Fatalf("reader %d: message %d is %s", i, k, data)
			}
		}
		if len(e.got) != n || e.resets != 0 || e.ends == 0 {
			t.Errorf("reader %d: %d of %d messages, %d resets, %d ends", i, len(e.got), n, e.resets, e.ends)
		}
		e.mu.Unlock()
	}
}
