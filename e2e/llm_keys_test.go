package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// createKey makes an API key with the binary's command.
func (c *llmCluster) createKey(tenant string, flags ...string) (id, key string) {
	c.t.Helper()
	out, errs, code := c.command("", append([]string{"key", "create", tenant}, flags...)...)
	key = strings.TrimSpace(out)
	parts := strings.Split(key, "_")
	if code != 0 || len(parts) != 3 {
		c.t.Fatalf("key create: %d, %q %s", code, out, errs)
	}
	return parts[1], key
}

// Tenants have nothing of each other: no entry, no answer that is under way, no id; unless both share.
func TestLLMTenants(t *testing.T) {
	t.Parallel()
	model, release := held(3, 10)
	c := newLLM(t, withValkey(t), map[string]fakellm.Behaviour{"m": {}, "held": model})
	bearer := func(key string) []string { return []string{"Authorization", "Bearer " + key} }
	_, ann := c.createKey("ann")
	_, annToo := c.createKey("ann")
	_, bob := c.createKey("bob")
	_, eve := c.createKey("eve", "--shared")
	_, dan := c.createKey("dan", "--shared")
	ask := func(replica int, key string) string {
		a := c.mustAsk(replica, "/chat/completions", asking("m", "tenants", nil), bearer(key)...)
		return checkAnswer(t, contentOf(t, a.body), "tenants", 10)
	}
	of := map[string]string{} // nonces, by whose they are
	for _, pair := range [][2]string{{ann, annToo}, {bob, bob}, {eve, dan}, {apiKey, apiKey}} {
		// A Valkey that is slow, as on a busy machine, counts as a miss: then the answer is a new one for both.
		until(t, 30*time.Second, "the same answer for both keys", func() string {
			first, second := ask(0, pair[0]), ask(1, pair[1])
			for _, nonce := range []string{first, second} {
				if whose, known := of[nonce]; known && whose != pair[0] {
					t.Fatalf("%s was given to two tenants", nonce)
				}
				of[nonce] = pair[0]
			}
			if first != second {
				return first + " and " + second
			}
			return ""
		})
	}
	if n := c.model.Count("m"); n != len(of) {
		t.Errorf("%d calls for %d answers", n, len(of))
	}

	body := asking("held", "under way", object{"stream": true})
	first := c.open(0, "/chat/completions", body, bearer(ann)...)
	first.await(" 2")
	other := c.open(1, "/chat/completions", body, bearer(bob)...)
	other.await(" 2")
	if n := c.model.Count("held"); n != 2 {
		t.Errorf("bob joined ann's answer: %d calls", n)
	}
	id := streamID(t, first.res.Header)
	for name, key := range map[string]string{"bob": bob, "eve": eve} {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/v1/responses/%s?stream=true", c.replicas[0].addr, id), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := llmClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s resumes ann's answer: %d", name, res.StatusCode)
		}
	}
	release()
	checkAnswer(t, textOf(t, first.all()), "under way", 10)
	checkAnswer(t, textOf(t, other.all()), "under way", 10)
}

// A key that is taken back is refused on every replica at once, and one that has used up its minute is told until when.
func TestLLMKeys(t *testing.T) {
	t.Parallel()
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {}, "other": {}})
	id, key := c.createKey("ann", "--requests-per-minute", "3", "--model", "m")
	_, good := c.createKey("ann")
	ask := func(replica int, model, key string) answer {
		a, err := c.ask(replica, "/chat/completions", asking(model, fmt.Sprint(model, time.Now().UnixNano()), nil), "Authorization", "Bearer "+key)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(0, "other", key); a.status/100 != 4 {
		t.Errorf("a model that is not the key's: %d", a.status)
	}
	limited := answer{}
	for range 4 {
		limited = ask(0, "m", key)
	}
	if limited.status != http.StatusTooManyRequests || limited.header.Get("Retry-After") == "" {
		t.Errorf("over the limit: %d, Retry-After %q", limited.status, limited.header.Get("Retry-After"))
	}
	if a := ask(1, "m", good); a.status != http.StatusOK {
		t.Errorf("another key of the tenant: %d %s", a.status, a.body)
	}
	if out, errs, code := c.command("", "key", "revoke", id); code != 0 {
		t.Fatalf("revoke: %s %s", out, errs)
	}
	for replica := range 2 {
		until(t, 3*time.Second, "the key being refused", func() string {
			if a := ask(replica, "m", key); a.status != http.StatusUnauthorized {
				return fmt.Sprint(a.status)
			}
			return ""
		})
	}
}
