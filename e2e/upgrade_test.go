package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// released builds the release that an upgrade comes from: UPGRADE_FROM, else the newest tag. A test without either, as
// in a clone that has no history, is skipped.
func released(t *testing.T) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	ref := os.Getenv("UPGRADE_FROM")
	if ref == "" {
		tag, err := git("describe", "--tags", "--abbrev=0", "HEAD^")
		if err != nil {
			t.Skip("no release to come from: name one in UPGRADE_FROM")
		}
		ref = tag
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

// An upgrade as people do it: the old release runs; the new one migrates under it; replicas are replaced one by one,
// and one goes back to the old release and starts there anew, since that is what people do when something is wrong.
// Old and new deliver the same, in one order, to everybody, and cache and write beside each other.
func TestUpgrade(t *testing.T) {
	old := released(t)
	heavy(t)
	m := newModel(t, map[string]fakellm.Behaviour{"m": {Tokens: 5}})
	c := &llmCluster{model: m, cluster: newCluster(t, 3, options{idle: true, env: []string{"FORGEWIRE_UPSTREAM_URL=" + m.URL(), "FORGEWIRE_UPSTREAM_KEY=" + modelKey}})}
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
	}
	works("old alone")

	if _, errs, code := c.command("", "migrate"); code != 0 {
		t.Fatalf("migrate under the old release: %s", errs)
	}
	after := query[int](t, c.url, "SELECT max(version_id) FROM forgewire.schema_migrations")
	t.Logf("schema %d, then %d", before, after)
	works("old on the new schema")
	for i, r := range c.replicas {
		r.term()
		r.binary = ""
		r.start()
		r.waitReady(60 * time.Second)
		works(fmt.Sprint("with ", i+1, " new"))
	}
	// Back: an old release that starts on a schema that is newer than itself leaves it alone.
	r := c.replicas[1]
	r.term()
	r.binary = old
	r.start()
	r.waitReady(60 * time.Second)
	works("one back")
	if now := query[int](t, c.url, "SELECT max(version_id) FROM forgewire.schema_migrations"); now != after {
		t.Errorf("the old release took the schema to %d", now)
	}
	f.stop()
	c.settle(book, subs...)
	nobodyWasTold(t, subs)
}
