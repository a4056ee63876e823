package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// Everything that a request may do, many times; then the replica is as it was: files, memory and goroutines.
func TestLLMSoak(t *testing.T) {
	variant(t)
	heavy(t)
	c := newLLM(t, nil, map[string]fakellm.Behaviour{
		"m": {Tokens: 20}, "paced": {Tokens: 20, Interval: 2 * time.Millisecond}, "cut": {Fault: fakellm.Cut, After: 5},
		"broken": {Fault: fakellm.BadRequest}, "stall": {Fault: fakellm.Stall, After: 3}, "big": {Fault: fakellm.BigChunk, After: 1},
	},
		// An answer that nobody waits for goes on, so that it can be resumed, until the model is silent, or takes, too long.
		"FORGEWIRE_UPSTREAM_URL=", "FORGEWIRE_UPSTREAM_KEY=",
		`FORGEWIRE_UPSTREAMS={"upstreams":[{"name":"fake","url":"{model}","key":"`+modelKey+`","idle_timeout":"2s","timeout":"5s"}]}`)
	soak(c, 2*time.Second, 0)
	c.settled()
	r := c.replicas[0]
	files, memory := openFiles(t, r), residentMemory(t, r)
	rounds := soak(c, lasting(8*time.Second, 10*time.Minute), 1)
	c.settled()
	llmClient.CloseIdleConnections()
	until(t, 90*time.Second, "the replica closing what it opened", func() string {
		if n := openFiles(t, r); n > files+10 {
			return fmt.Sprintf("%d files, %d before", n, files)
		}
		return ""
	})
	after := residentMemory(t, r)
	t.Logf("%d rounds; files %d, then %d; memory %d MiB, then %d MiB", rounds, files, openFiles(t, r), memory>>20, after>>20)
	if after > memory+384<<20 { // of a binary with the race detector, which takes several times what the cache holds
		t.Errorf("memory went from %d to %d MiB", memory>>20, after>>20)
	}
	goroutinesEnded(t, r)
}

// soak sends requests of all kinds from many clients for a while, and returns how often.
func soak(c *llmCluster, d time.Duration, seed int) int {
	c.t.Helper()
	end := time.Now().Add(d)
	var wait sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for client := range 16 {
		wait.Go(func() {
			n := 0
			for ; time.Now().Before(end); n++ {
				question := fmt.Sprint("soak ", seed, n%50, client%4)
				model := []string{"m", "paced", "cut", "broken", "stall", "m", "paced", "m"}[(n+client)%8]
				if n%100 == 0 {
					model = "big"
				}
				soakOne(c, n%2, asking(model, question, object{"stream": n%3 > 0}), model == "stall" || n%5 == 0)
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wait.Wait()
	return total
}

// soakOne asks, and leaves in mid-answer or after it.
func soakOne(c *llmCluster, replica int, body object, leave bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	if leave {
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	}
	defer cancel()
	res, err := c.send(ctx, replica, "/chat/completions", body)
	if err != nil {
		return // left
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body) // cut, or left
}

// settled waits until the model is asked nothing any more.
func (c *llmCluster) settled() {
	c.t.Helper()
	until(c.t, 90*time.Second, "the model being left in peace", func() string {
		if n := c.model.Active(); n > 0 {
			return fmt.Sprintf("%d calls are under way", n)
		}
		return ""
	})
}

func (r *replica) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		r.t.Fatalf("%s does not run", r.name)
	}
	return r.cmd.Process.Pid
}

func openFiles(t *testing.T, r *replica) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.pid()))
	if err != nil {
		t.Skipf("this system does not tell which files a process has open: %v", err)
	}
	return len(entries)
}

func residentMemory(t *testing.T, r *replica) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.pid()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

var goroutineHead = regexp.MustCompile(`(?m)^goroutine \d+ .*\[.*\]:$`)

// goroutinesEnded has the replica write down its goroutines, of which it dies, and demands that none is left
// of a request.
func goroutinesEnded(t *testing.T, r *replica) {
	t.Helper()
	before := len(r.log.String())
	r.signal(syscall.SIGQUIT)
	_ = r.wait(20 * time.Second) // it ends with an error, as it should
	dump := r.log.String()[before:]
	all := goroutineHead.FindAllStringIndex(dump, -1)
	if len(all) == 0 {
		t.Fatalf("no goroutine in what it wrote: %.500s", dump)
	}
	left := 0
	for i, at := range all {
		end := len(dump)
		if i+1 < len(all) {
			end = all[i+1][0]
		}
		stack := dump[at[0]:end]
		for _, of := range []string{"cache/llm.(*flight)", "cache/llm.(*Service).Serve", "ServeHTTP("} {
			if strings.Contains(stack, of) {
				if left++; left <= 3 {
					t.Errorf("a goroutine is left:\n%s", stack)
				}
				break
			}
		}
	}
	t.Logf("%d goroutines, %d of them left from requests", len(all), left)
	if len(all) > 80 {
		t.Errorf("%d goroutines", len(all))
	}
}
