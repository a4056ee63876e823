package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// released builds the release that an upgrade comes from: UPGRADE_FROM, else the newest tag. Where there is neither, it is
// what was there before the schema's last change, if everything is tried; otherwise, and in a clone that has no history, the
// test is skipped.
func released(t *testing.T) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	ref := os.Getenv("UPGRADE_FROM")
	if ref == "" {
		from, err := git("describe", "--tags", "--abbrev=0", "HEAD^")
		if err != nil && long() {
			if from, err = git("rev-list", "--first-parent", "-1", "HEAD", "--", ":/db/migrations"); err == nil {
				from, err = git("rev-parse", "--verify", from+"^")
			}
		}
		if err != nil {
			t.Skip("no release to come from: name one in UPGRADE_FROM")
		}
		ref = from
	}
	commit, err := git("rev-parse", "--verify", ref+"^{commit}")
	if err != nil {
		t.Fatalf("UPGRADE_FROM=%s: %s", ref, commit)
	}
	dir := filepath.Join(t.TempDir(), "release")
	if out, err := git("worktree", "add", "--detach", dir, commit); err != nil {
		t.Fatalf("check out %s: %s", ref, out)
	}
	t.Cleanup(func() {
		if out, err := git("worktree", "remove", "--force", dir); err != nil {
			t.Error(out)
		}
	})
	binary := filepath.Join(buildDir, "forgewire-"+commit)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/forgewire")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", ref, err, out)
	}
	return binary
}

// beside demands that replicas do together what takes more than one of them, whichever release each is of: what one
// changes the others know, what one asks the others join, and who has a job does it.
func (c *llmCluster) beside(when string, migrated bool) {
	c.t.Helper()
	everywhere := func(what string, holds func(r *replica) string) {
		c.t.Helper()
		for _, r := range c.replicas {
			until(c.t, 10*time.Second, fmt.Sprintf("%s: %s on %s", when, what, r.name), func() string { return holds(r) })
		}
	}
	has := func(path, text string) func(r *replica) string {
		return func(r *replica) string {
			status, reply, err := r.v1(c.t.Context(), http.MethodGet, path, "application/json", "")
			if err != nil || status != http.StatusOK || !strings.Contains(string(reply), text) {
				return fmt.Sprintf("%d %.300s, %v", status, reply, err)
			}
			return ""
		}
	}
	everywhere("all replicas", func(r *replica) string {
		var info struct{ Nodes []json.RawMessage }
		if err := r.call(c.t.Context(), "info", object{}, &info); err != nil || len(info.Nodes) != len(c.replicas) {
			return fmt.Sprintf("%d, %v", len(info.Nodes), err)
		}
		return ""
	})
	dataset := c.replicas[0].made("/datasets", "application/json", fmt.Sprintf(`{"name":%q}`, "words "+when))
	c.replicas[0].made("/datasets/"+dataset+"/cases", "application/x-ndjson", `{"variables":{"word":"one"},"expected":"x"}`+"\n"+`{"variables":{"word":"two"},"expected":"x"}`+"\n")
	for i, r := range c.replicas {
		name := fmt.Sprint(when, " ", i)
		prompt := r.made("/prompts", "application/json", fmt.Sprintf(`{"name":%q,"template":"first {{word}}"}`, name))
		everywhere("a prompt", has("/prompts/"+prompt, "first"))
		r.made("/prompts/"+prompt+"/versions", "application/json", `{"template":"second {{word}}"}`)
		everywhere("the prompt's second version", has("/prompts/"+prompt, "second"))
		evaluation := r.made("/evaluations", "application/json",
			fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m","scoring":{"type":"exact"}}`, prompt, dataset))

		asked := c.model.Count("slow")
		body := asking("slow", name, object{"stream": true})
		first := c.open(i, "/chat/completions", body)
		first.await(" 2")
		nonces := map[string]bool{}
		for _, s := range []*eventStream{c.open((i+1)%3, "/chat/completions", body), c.open((i+2)%3, "/chat/completions", body), first} {
			nonces[checkAnswer(c.t, textOf(c.t, s.all()), name, 20)] = true
		}
		if n := c.model.Count("slow") - asked; n != 1 || len(nonces) != 1 {
			c.t.Errorf("%s: one stream on all replicas: %d calls, %d answers", name, n, len(nonces))
		}
		everywhere("an evaluation", has("/evaluations/"+evaluation, `"status":"done"`))
	}
	if migrated { // the command is the new release's
		id, key := c.createKey("ann")
		status := func(want int) func(r *replica) string {
			return func(r *replica) string {
				if got, code := r.get(key, "/v1/runs"); got != want {
					return fmt.Sprint(got, " ", code)
				}
				return ""
			}
		}
		everywhere("a key", status(http.StatusOK))
		if _, errs, code := c.command("", "key", "revoke", id); code != 0 {
			c.t.Fatalf("revoke: %s", errs)
		}
		everywhere("the key revoked", status(http.StatusUnauthorized))
	}
}

// An upgrade as people do it: the old release runs; the new one migrates under it; replicas are replaced one by one,
// and one goes back to the old release and starts there anew, since that is what people do when something is wrong.
// Old and new deliver the same, in one order, to everybody, and cache and write beside each other.
func TestUpgrade(t *testing.T) {
	old := released(t)
	heavy(t)
	m := newModel(t, map[string]fakellm.Behaviour{"m": {Tokens: 5}, "slow": {Tokens: 20, Interval: 50 * time.Millisecond}})
	c := &llmCluster{model: m, cluster: newCluster(t, 3, options{idle: true, url: emptyDatabase(t, sharedServer(t)), env: []string{"FORGEWIRE_UPSTREAM_URL=" + m.URL(), "FORGEWIRE_UPSTREAM_KEY=" + modelKey}})}
	for _, r := range c.replicas {
		r.binary = old
		r.start()
		r.waitReady(60 * time.Second)
	}
	before := query[int](t, c.url, "SELECT max(version_id) FROM forgewire.schema_migrations")
	book := newLedger()
	subs := append(crowd(c.cluster, "room:1", "room:2"), c.subscribe(2, "room:1", "room:2"))
	f := c.flood(book, "room:1", "room:2")
	progress(c.cluster, book, subs, 30*time.Second)
	migrated := false
	works := func(when string) {
		t.Helper()
		progress(c.cluster, book, subs, 30*time.Second)
		for i := range c.replicas {
			question := fmt.Sprint(when, " ", i)
			text := contentOf(t, c.mustAsk(i, "/chat/completions", asking("m", question, nil)).body)
			checkAnswer(t, text, question, 5)
			if again := contentOf(t, c.mustAsk((i+1)%3, "/chat/completions", asking("m", question, nil)).body); again == "" {
				t.Errorf("%s: no answer beside replica %d", when, i)
			}
		}
		c.beside(when, migrated)
	}
	works("old alone")

	if _, errs, code := c.command("", "migrate"); code != 0 {
		t.Fatalf("migrate under the old release: %s", errs)
	}
	migrated = true
	after := query[int](t, c.url, "SELECT max(version_id) FROM forgewire.schema_migrations")
	t.Logf("schema %d, then %d", before, after)
	works("old on the new schema")
	for i, r := range c.replicas {
		r.term()
		r.binary = ""
		r.start()
		r.waitReady(60 * time.Second)
		subs = append(subs, c.subscribe(i, "room:1", "room:2")) // the others have gone elsewhere
		works(fmt.Sprint("with ", i+1, " new"))
	}
	// Back: an old release that starts on a schema that is newer than itself leaves it alone.
	r := c.replicas[1]
	r.term()
	r.binary = old
	r.start()
	r.waitReady(60 * time.Second)
	subs = append(subs, c.subscribe(1, "room:1", "room:2"))
	works("one back")
	if now := query[int](t, c.url, "SELECT max(version_id) FROM forgewire.schema_migrations"); now != after {
		t.Errorf("the old release took the schema to %d", now)
	}
	f.stop()
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}
