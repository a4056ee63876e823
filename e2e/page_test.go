package e2e

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A stranger's first minute: one command, and the page of two replicas in a real browser, wide and narrow.
func TestPage(t *testing.T) {
	heavy(t)
	browser := chromium(t)
	url, key := startDev(t)
	if status := statusOfHost(t, url, "evil.test"); status != http.StatusMisdirectedRequest {
		t.Errorf("a name that a stranger made to point here: %d", status)
	}
	for _, width := range widths(390) {
		out := node(t, "node/page.mjs", "URL="+url, "API_KEY="+key, "CHROMIUM="+browser, "WIDTH="+strconv.Itoa(width), "SHOT="+os.Getenv("SHOT_"+strconv.Itoa(width)))
		if n := strings.Count(out, "ok   "); n != 23 {
			t.Errorf("at %d pixels %d of 23 are ok:\n%s", width, n, out)
		}
	}
}

// widths are those of the windows in which a page is tried: a desktop's and a phone's, or only one of them.
func widths(usual int) []int {
	if long() {
		return []int{1280, 390}
	}
	return []int{usual}
}

// statusOfHost asks for a page by another name.
func statusOfHost(t *testing.T, url, host string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// chromium finds the browser, or skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, "Chromium is not installed: run e2e/setup.sh as root")
	return ""
}

// startDev runs `forgewire dev`, with more variables, and returns its page and key. It must end by itself, and with 0, when told to.
func startDev(t *testing.T, environ ...string) (url, key string) {
	t.Helper()
	cmd := exec.Command(forgewire(t), "dev", "--ephemeral")
	cmd.Dir = t.TempDir()
	cmd.Env = append(append(os.Environ(), "PORT="+strconv.Itoa(freePort(t)),
		"FORGEWIRE_UPSTREAM_URL=", "FORGEWIRE_UPSTREAM_KEY=", "FORGEWIRE_UPSTREAMS="), environ...) // it brings its own model
	var out, errs logBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	endWithUs(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("dev ended with %v:\n%s", err, errs.String())
			}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("dev does not end:\n%s", errs.String())
		}
		if s := errs.String(); strings.Contains(s, "DATA RACE") || strings.Contains(s, "panic:") {
			t.Error(s)
		}
	})
	page, secret := regexp.MustCompile(`Page\s+(http\S+)`), regexp.MustCompile(`API key\s+(\S+)`)
	until(t, 90*time.Second, "dev running", func() string {
		a, b := page.FindStringSubmatch(out.String()), secret.FindStringSubmatch(out.String())
		if a == nil || b == nil {
			return "nothing printed yet: " + errs.String()
		}
		url, key = a[1], b[1]
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url+"/readyz", http.NoBody)
		if err != nil {
			return err.Error()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	if len(environ) == 0 && !strings.Contains(out.String(), "a model that imitates") {
		t.Errorf("the summary does not say that the model imitates:\n%s", out.String())
	}
	return url, key
}
