package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// What documents say of somebody else's machine, and what stands for it here.
const (
	documentedAddress  = "localhost:8080"
	documentedDatabase = "postgres://user:password@host/db"
)

// mostNotRun bounds how much may be left to parsing.
const mostNotRun = 16

// Every block of the documents is run, in order, in the shell, the database or the runtime that it is for, beside the
// `forgewire dev` that the README starts. What cannot be run says why.
func TestDocuments(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl", "psql", "node", "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program+" is not installed: run e2e/setup.sh")
		}
	}
	if _, err := os.Stat("../node_modules/centrifuge"); err != nil {
		missing(t, "the JavaScript packages are not installed: run e2e/setup.sh")
	}
	all := pages(t)
	names := []string{"README.md", "docs/quickstart.md"}
	for name := range all {
		if strings.HasPrefix(name, "docs/") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names[2:])
	run, left := 0, []string{}
	for _, name := range names {
		if len(all[name].blocks) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newSession(t, all[name])
			for _, b := range all[name].blocks {
				if reason, is := strings.CutPrefix(b.note, "not run: "); is {
					left = append(left, fmt.Sprintf("%s:%d: %s", name, b.line, reason))
					s.parse(b)
					continue
				}
				s.run(b)
				run++
				if t.Failed() {
					return // the next one would fail of this one
				}
			}
		})
	}
	t.Logf("%d blocks ran, %d did not:\n%s", run, len(left), strings.Join(left, "\n"))
	if len(left) > mostNotRun {
		t.Errorf("%d blocks are not run, and at most %d may be left out", len(left), mostNotRun)
	}
	if run < 40 && !t.Failed() {
		t.Errorf("only %d blocks ran", run)
	}
}

// session is one document's: what a block sets, the next one has.
type session struct {
	t     *testing.T
	dev   *development
	page  *page
	empty string // a database without anything
	port  string // for what a block starts
	state string // a file with the shell's variables
	db    *pgx.Conn
}

func newSession(t *testing.T, p *page) *session {
	t.Helper()
	dev := running(t)
	s := &session{t: t, dev: dev, page: p, state: filepath.Join(t.TempDir(), "state"), db: dial(t, dev.database)}
	var err error
	if s.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	// The tables are the reader's own application.
	prepare := `DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP DATABASE IF EXISTS "reader" WITH (FORCE); CREATE DATABASE "reader"`
	for sql := range strings.SplitSeq(prepare, "; ") {
		if err = execute(t, s.db, sql); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(p.text, "CREATE TABLE orders") {
		if err = execute(t, s.db, "CREATE TABLE orders (id bigint PRIMARY KEY, owner text, status text); INSERT INTO orders VALUES (42, 'ann', 'new')"); err != nil {
			t.Fatal(err)
		}
	}
	s.empty = regexp.MustCompile(`/\w+(\?|$)`).ReplaceAllString(dev.database, "/reader$1")
	if err = os.WriteFile(s.state, []byte(". .forgewire/env\nexport PORT="+s.port+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// here is a block's code with this machine's addresses.
func (s *session) here(code string) string {
	return strings.NewReplacer(documentedAddress, s.dev.address, documentedDatabase, s.empty).Replace(code)
}

func (s *session) fail(b block, format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("%s:%d: %s\n%s", s.page.path, b.line, fmt.Sprintf(format, args...), b.code)
}

func (s *session) run(b block) {
	s.t.Helper()
	switch b.language {
	case "sh":
		s.process(b, b.code)
	case "js":
		s.file("globals.mjs", browserGlobals)
		s.file("block.mjs", s.here(b.code))
		s.process(b, "node --import ./globals.mjs block.mjs")
	case "sql":
		if err := execute(s.t, s.db, b.code); err != nil {
			s.fail(b, "%v", err)
		}
	case "json", "python", "http", "text":
		s.parse(b) // they are values, and what others send
	case "go":
		s.compile(b)
	default:
		s.fail(b, "nobody knows how to run %q: a block needs a language, or a comment that says why it is not run", b.language)
	}
}

// browserGlobals is what a browser has and Node 20 has not.
const browserGlobals = `import WebSocket from 'ws'; globalThis.WebSocket ??= WebSocket`

// A reader's shell stops at the first failure, and so does this one: an answer of 400 and more is one, and make tells only
// whether it knows the target.
const shell = `set -euo pipefail
curl() { command curl --silent --show-error --fail-with-body --max-time 30 "$@"; }
make() { command make --dry-run --directory "$REPOSITORY" "$@" >/dev/null; }
set -a
. %[1]q
trap 'code=$?; trap - EXIT; export -p >%[1]q; exit $code' EXIT
%[2]s`

// file writes a file beside the reader's own and returns its path.
func (s *session) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dev.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// process runs commands for a block in the reader's shell, until they end or have shown what its comment says of it.
func (s *session) process(b block, commands string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 60*time.Second)
	defer cancel()
	repository, err := filepath.Abs(root)
	if err != nil {
		s.t.Fatal(err)
	}
	var out output
	cmd := exec.Command("bash", s.file("block.sh", fmt.Sprintf(shell, s.state, s.here(commands))))
	cmd.Dir = s.dev.folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dev.folder, "REPOSITORY=" + repository}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err = cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with what it started
	channel, prints := strings.CutPrefix(b.note, "prints what is published on ")
	switch {
	case b.note == "runs until stopped":
		s.until(ctx, b, &out, ended, func(int) bool {
			status, _, err := get(ctx, "http://127.0.0.1:"+s.port+"/readyz", nil)
			return err == nil && status == http.StatusOK
		})
		stop()
	case prints:
		message := fmt.Sprintf("for line %d of %s", b.line, s.page.path)
		s.until(ctx, b, &out, ended, func(n int) bool {
			if n%10 == 0 { // it may not have subscribed yet
				if err := execute(s.t, s.db, fmt.Sprintf(`SELECT forgewire.publish('%s', '{"text": "%s"}')`, channel, message)); err != nil {
					s.t.Fatal(err)
				}
			}
			return strings.Contains(out.String(), message)
		})
		stop()
	case b.note != "":
		stop()
		s.fail(b, "nobody knows what %q is", b.note)
	default:
		select {
		case err = <-ended:
			if err != nil || strings.Contains(out.String(), `"error":{`) {
				s.fail(b, "%v: %s", err, out.String())
			}
		case <-ctx.Done():
			stop()
			s.fail(b, "it does not end: %s", out.String())
		}
	}
}

// until waits for what a block is to show before it ends.
func (s *session) until(ctx context.Context, b block, out *output, ended <-chan error, shown func(n int) bool) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; !shown(n); n++ {
		select {
		case err := <-ended:
			s.fail(b, "it ended with %v: %s", err, out.String())
			return
		case <-ctx.Done():
			s.fail(b, "%s: not within a minute: %s", b.note, out.String())
			return
		case <-tick.C:
		}
	}
}

// parse is what can be said of a block without running it.
func (s *session) parse(b block) {
	s.t.Helper()
	var cmd *exec.Cmd
	switch b.language {
	case "sh":
		cmd = exec.Command("bash", "-n", s.file("block.sh", b.code))
	case "js":
		cmd = exec.Command("node", "--check", s.file("block.mjs", b.code))
	case "python":
		cmd = exec.Command("python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())", s.file("block.py", b.code))
	case "json":
		if !json.Valid([]byte(b.code)) {
			s.fail(b, "it is not JSON")
		}
		return
	case "ruby", "ts", "http", "text":
		return // there is no parser of these here
	default:
		s.fail(b, "a block in %q cannot be left out", b.language)
		return
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.fail(b, "%v: %s", err, out)
	}
}

// wrappers say where the Go of a document belongs: files of the repository, %s standing for the block.
var wrappers = map[string]map[string]string{
	"docs/complete.md": {"e2e/docs/block/block.go": `package block

import (
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func client() openai.Client {
	%s
	return client
}
`},
	"docs/serve.md": {
		"handlers/resources/notes_of_the_document.go": `package resources

import (
	"net/http"
	"reflect"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
)

type Note struct{}

func showNote(db.Note) Note { return Note{} }

%s
`,
		"db/notes_of_the_document.go": `package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

type Note struct{ ID string }

func CreateNote(ctx context.Context, tx pgx.Tx, tenant, id, text string) (n Note, err error) { return }
`},
}

// compile has the compiler see a block where it belongs, without a file of it in the repository.
func (s *session) compile(b block) {
	s.t.Helper()
	files := wrappers[s.page.path]
	if files == nil {
		s.fail(b, "nobody knows where this Go belongs: see wrappers")
		return
	}
	if strings.Contains(b.code, "openai.NewClient") && os.Getenv("E2E_LONG") != "1" {
		return // it takes a minute to compile; make test-long
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	packages := []string{}
	for name, text := range files {
		at, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			s.t.Fatal(err)
		}
		overlay.Replace[at] = s.file(strings.ReplaceAll(name, "/", "_"), strings.Replace(text, "%s", b.code, 1))
		packages = append(packages, "./"+filepath.Dir(name))
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-overlay", s.file("overlay.json", string(list))}, packages...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		s.fail(b, "%v: %s", err, out)
	}
}

// What the documents show of the configuration is one: a replica starts with all of it.
func TestDocumentedConfiguration(t *testing.T) {
	t.Parallel()
	dev := running(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "PORT=" + port, "DATABASE_URL=" + dev.database, "FORGEWIRE_API_KEY=0123456789abcdef",
		"FORGEWIRE_TOKEN_SECRET=0123456789abcdef", "OPENAI_API_KEY=sk-1"}
	for name, p := range pages(t) {
		for _, b := range p.blocks {
			for key, variable := range map[string]string{`"namespaces"`: "FORGEWIRE_NAMESPACES", `"connect"`: "FORGEWIRE_HOOKS", `"upstreams"`: "FORGEWIRE_UPSTREAMS"} {
				if b.language == "json" && strings.Contains(b.code, key) {
					t.Logf("%s:%d is %s", name, b.line, variable)
					env = append(env, variable+"="+b.code)
				}
			}
		}
	}
	if len(env) < 9 {
		t.Errorf("only %d variables were found", len(env)-6)
	}
	var out output
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dev.folder, "bin", "forgewire"), "serve")
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &out
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _, err := get(ctx, "http://127.0.0.1:"+port+"/readyz", nil); err == nil && status == http.StatusOK {
			return
		}
		select {
		case err = <-ended:
			t.Fatalf("a replica with what the documents show ended: %v\n%s", err, out.String())
		case <-ctx.Done():
			t.Fatalf("a replica with what the documents show is not ready\n%s", out.String())
		case <-tick.C:
		}
	}
}
