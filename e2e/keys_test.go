package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// get asks a replica with an API key and returns the status and the error's code.
func (r *replica) get(key, path string) (status int, code string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+r.addr+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := apiClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var e struct{ Code string } // a problem (RFC 9457)
	if err = json.Unmarshal(body, &e); err != nil {
		r.t.Fatalf("%d %s: %v", res.StatusCode, body, err)
	}
	return res.StatusCode, e.Code
}

// A key that the command creates opens /v1 on every replica, and what the command revokes is refused at once.
func TestKeysOfTheCommand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, options{})
	create := func(args ...string) string {
		out, errs, code := c.command("", append([]string{"key", "create"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: %d %s", args, code, errs)
		}
		return strings.TrimSpace(out)
	}
	key := create("acme", "--name", "ci", "--model", "gpt-*", "--model", "o3", "--requests-per-minute", "60",
		"--tokens-per-minute", "100000", "--budget", "12.5", "--ttl", "1h", "--shared")
	stays := create("acme")
	for _, r := range c.replicas {
		for _, k := range []string{key, stays, apiKey} {
			if status, code := r.get(k, "/v1/runs"); status != 200 {
				t.Fatalf("%s: %d %s", r.name, status, code)
			}
		}
	}
	list, _, _ := c.command("", "key", "list")
	id := strings.Split(key, "_")[1]
	for _, want := range []string{id, "acme", "until ", "60", "100000", "12.5", "true", "gpt-*,o3", "ci", "good"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list lacks %s:\n%s", want, list)
		}
	}
	if strings.Contains(list, strings.Split(key, "_")[2]) {
		t.Error("the list shows a secret")
	}
	if list, _, _ = c.command("", "key", "list", "another"); strings.Contains(list, id) {
		t.Errorf("another tenant's list:\n%s", list)
	}

	if out, errs, code := c.command("", "key", "revoke", id); code != 0 || strings.TrimSpace(out) != "revoked" {
		t.Fatalf("%s %s %d", out, errs, code)
	}
	began := time.Now()
	for _, r := range c.replicas {
		until(t, 5*time.Second, r.name+" refuses the key", func() string {
			if status, code := r.get(key, "/v1/runs"); status != http.StatusUnauthorized || code != "api_key_revoked" {
				return fmt.Sprint(status, " ", code)
			}
			return ""
		})
		if status, _ := r.get(stays, "/v1/runs"); status != 200 {
			t.Errorf("%s: the other key: %d", r.name, status)
		}
	}
	t.Logf("refused everywhere %v after the command", time.Since(began).Round(time.Millisecond))

	for _, bad := range []struct{ args, why string }{
		{"revoke " + id, "revoked before"},
		{"revoke " + key, "16 letters"},
		{"create a\tb", "tenant is 1 to 128 printable ascii"},
		{"create acme --requests-per-minute 0", "above 0"},
		{"create acme --budget=-1", "at least 0"},
		{"create acme --budget NaN", "at least 0"},
		{"create acme --ttl=-1h", "above 0"},
	} {
		args := append([]string{"key"}, strings.Split(bad.args, " ")...)
		if out, errs, code := c.command("", args...); code != 1 || !strings.Contains(errs, bad.why) || out != "" {
			t.Errorf("%s: %d %s %s", bad.args, code, out, errs)
		}
	}
}
