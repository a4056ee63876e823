package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// The examples run as their README says, beside replicas of their own.

// example starts an example's server, and returns its address once it says that it listens, or answers.
func example(t *testing.T, c *cluster, port int, command ...string) string {
	t.Helper()
	log := &logBuffer{}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), fmt.Sprintf("WEB_PORT=%d", port),
		"DATABASE_URL=" + c.url, "FORGEWIRE=" + c.replicas[0].addr, "FORGEWIRE_API_KEY=" + apiKey, "FORGEWIRE_TOKEN_SECRET=" + tokenSecret, "MODEL=paced"}
	cmd.Stdout, cmd.Stderr = log, log
	endWithUs(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its group
		_ = cmd.Wait()                                      // killed is how it ends
		if t.Failed() {
			t.Logf("%s: %s", command, log)
		}
	})
	address := fmt.Sprintf("localhost:%d", port)
	until(t, 30*time.Second, "the example listening", func() string {
		status, _, err := visit(t.Context(), http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return fmt.Sprintf("%v; %s", err, log)
		}
		if status >= http.StatusInternalServerError {
			return fmt.Sprint(status)
		}
		return ""
	})
	return address
}

// visit is one request; of an answer that has no end only the beginning is read.
func visit(ctx context.Context, method, url string, header http.Header) (status int, begins string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	if header != nil {
		req.Header = header
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return res.StatusCode, strings.TrimSpace(line), err
}

// exampleModels answer fast enough for a test, and slowly enough to break off in the middle.
func exampleModels() map[string]fakellm.Behaviour {
	return map[string]fakellm.Behaviour{"m": {Tokens: 10}, "paced": {Tokens: 40, Interval: 20 * time.Millisecond}}
}

const exampleNamespaces = `FORGEWIRE_NAMESPACES={"without_namespace":{"allow_publish_for_subscriber":true,"presence":true,"join_leave":true}}`

// browse has the page of an example tried by a script in a real Chromium.
func browse(t *testing.T, script, address string, c *cluster, oks int) {
	t.Helper()
	out := node(t, script, "URL=http://"+address, "CHROMIUM="+chromium(t), "API=http://"+c.replicas[0].addr+"/api/publish", "API_KEY="+apiKey)
	if n := strings.Count(out, "ok   "); n != oks {
		t.Errorf("%d of %d are ok:\n%s", n, oks, out)
	}
}

func TestExampleChat(t *testing.T) {
	heavy(t)
	chromium(t)
	port := freePort(t)
	c := newCluster(t, 2, options{env: []string{exampleNamespaces, fmt.Sprintf("FORGEWIRE_ALLOWED_ORIGINS=localhost:%d", port)}})
	address := example(t, c, port, "node", "examples/chat/server.mjs")
	browse(t, "node/example_chat.mjs", address, c, 6)
}

func TestExampleNextJS(t *testing.T) {
	variant(t)
	heavy(t)
	chromium(t)
	port := freePort(t)
	c := newLLM(t, nil, exampleModels(), "FORGEWIRE_ALLOW_ANONYMOUS=false", fmt.Sprintf("FORGEWIRE_ALLOWED_ORIGINS=localhost:%d", port)).cluster
	address := example(t, c, port, "node", "examples/nextjs/server.mjs")
	if status, _, err := visit(t.Context(), http.MethodGet, "http://"+address+"/api/token", nil); status != http.StatusUnauthorized {
		t.Errorf("a token for nobody: %d, %v", status, err)
	}
	browse(t, "node/example_nextjs.mjs", address, c, 4)
}

// published are the texts on a channel, once there are as many as are wanted.
func published(t *testing.T, c *cluster, channel string, want int) []string {
	t.Helper()
	var texts []string
	until(t, 10*time.Second, "the message in the log", func() string {
		h, err := c.replicas[1].history(channel, 10, nil, false)
		if err != nil {
			return err.Error()
		}
		texts = nil
		for _, p := range h.Publications {
			texts = append(texts, string(p.Data))
		}
		if len(texts) < want {
			return fmt.Sprint(texts)
		}
		return ""
	})
	if len(texts) != want {
		t.Errorf("published: %q", texts)
	}
	return texts
}

func TestExampleDjango(t *testing.T) {
	t.Parallel()
	python := ""
	for _, candidate := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(candidate, "-c", "import django, psycopg2").Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		missing(t, "Django and psycopg2 are not installed: run e2e/setup.sh")
	}
	c := newCluster(t, 2, options{})
	address := example(t, c, freePort(t), python, "examples/django/app.py")
	// The one that fails comes first: had it been published, it would be there before the other.
	if status, _, err := visit(t.Context(), http.MethodPost, "http://"+address+"/orders/42/pay?fail", nil); status != http.StatusInternalServerError {
		t.Fatalf("a view that fails: %d, %v", status, err)
	}
	if status, body, err := visit(t.Context(), http.MethodPost, "http://"+address+"/orders/42/pay", nil); status != http.StatusOK {
		t.Fatalf("%d %s, %v", status, body, err)
	}
	if texts := published(t, c, "orders:42", 1); texts[0] != `{"status":"paid"}` {
		t.Errorf("published: %s", texts)
	}
}

func TestExampleGo(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "shop")
	if out, err := exec.Command("go", "build", "-C", "examples/go", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	c := newCluster(t, 2, options{})
	address := example(t, c, freePort(t), binary)
	for range 2 { // the second is a retry
		if status, body, err := visit(t.Context(), http.MethodPost, "http://"+address+"/orders/42/pay", nil); status != http.StatusNoContent {
			t.Fatalf("%d %s, %v", status, body, err)
		}
	}
	if status, _, err := visit(t.Context(), http.MethodPost, "http://"+address+"/orders/43/pay", nil); status != http.StatusNotFound {
		t.Errorf("an order that is not there: %d, %v", status, err)
	}
	if texts := published(t, c, "orders:42", 1); texts[0] != `{"status":"paid"}` {
		t.Errorf("published: %s", texts)
	}
	_, token, err := visit(t.Context(), http.MethodGet, "http://"+address+"/token?user=ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	for channel, want := range map[string]int{"inbox%23ann": http.StatusOK, "inbox%23bob": http.StatusForbidden} {
		status, _, err := visit(t.Context(), http.MethodGet, "http://"+c.replicas[0].addr+"/v1/channels/"+channel+"/events",
			http.Header{"Authorization": {"Bearer " + token}})
		if status != want {
			t.Errorf("ann on %s: %d, %v", channel, status, err)
		}
	}
}

func TestExampleOpenAI(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, exampleModels())
	out := node(t, "examples/openai/chat.mjs", "FORGEWIRE="+c.replicas[0].addr, "FORGEWIRE_API_KEY="+apiKey, "MODEL=paced")
	cut, whole := regexp.MustCompile(`cut at +(.*)`).FindStringSubmatch(out), regexp.MustCompile(`whole +(.*)`).FindStringSubmatch(out)
	if cut == nil || whole == nil || !strings.HasPrefix(whole[1], cut[1]) || len(cut[1]) >= len(whole[1]) ||
		!regexp.MustCompile(`again +the same - forgewire; hit;`).MatchString(out) {
		t.Fatal(out)
	}
	checkAnswer(t, whole[1], "Why is the sky blue?", 40)
}

func TestExampleEvaluation(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, exampleModels())
	out := node(t, "examples/evaluation/run.mjs", "FORGEWIRE="+c.replicas[0].addr, "FORGEWIRE_API_KEY="+apiKey, "MODEL=m")
	for _, want := range []string{"version 1: done, 3 of 3 right", "version 2: done, 3 of 3 right"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
}
