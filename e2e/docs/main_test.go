package docs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/infra/devstack"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dev != nil {
		if err := shared.dev.end(); err != nil {
			fmt.Fprintln(os.Stderr, "docs:", err)
			code = cmp.Or(code, 1)
		}
	}
	os.Exit(code)
}

// development is a `forgewire dev` as somebody has it who has just read the README: started in an empty folder, where it
// leaves .forgewire/env.
type development struct {
	folder   string
	address  string // of its load balancer
	database string
	apiKey   string

	cmd   *exec.Cmd
	ended chan error
	out   output
}

// shared is the one of all tests, started by the first that asks for it.
var shared struct {
	once sync.Once
	dev  *development
	err  error
}

func running(t *testing.T) *development {
	t.Helper()
	shared.once.Do(func() { shared.dev, shared.err = start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.dev
}

func start() (d *development, err error) {
	d = &development{ended: make(chan error, 1)}
	if d.folder, err = devstack.MkdirTemp("", "forgewire-docs-"); err != nil {
		return nil, err
	}
	binary := filepath.Join(d.folder, "bin", "forgewire")
	args, cgo := []string{"build", "-buildvcs=false", "-o", binary}, "CGO_ENABLED=0"
	if _, err = exec.LookPath("gcc"); err == nil && os.Getenv("E2E_LONG") == "1" {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	build := exec.Command("go", append(args, "forgewire/cmd/forgewire")...)
	build.Env = append(os.Environ(), cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	modules, err := filepath.Abs("../node_modules")
	if err != nil {
		return nil, err
	}
	if err = os.Symlink(modules, filepath.Join(d.folder, "node_modules")); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	d.cmd = exec.Command(binary, "dev")
	d.cmd.Dir = d.folder
	// The model is the one that it brings along, whatever the environment names.
	d.cmd.Env = append(os.Environ(), "PORT="+port, "FORGEWIRE_UPSTREAM_URL=", "FORGEWIRE_UPSTREAM_KEY=", "FORGEWIRE_UPSTREAMS=")
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err = d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.ended <- d.cmd.Wait() }()
	d.address = "127.0.0.1:" + port
	return d, d.wait()
}

// wait waits for the summary, which comes when both replicas are ready.
func (d *development) wait() error {
	deadline := time.After(90 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text := d.out.String()
		database, key := regexp.MustCompile(`Postgres\s+(\S+)`).FindStringSubmatch(text), regexp.MustCompile(`API key\s+(\S+)`).FindStringSubmatch(text)
		if database != nil && key != nil && regexp.MustCompile(`Ctrl-C to stop`).MatchString(text) {
			d.database, d.apiKey = database[1], key[1]
			return nil
		}
		select {
		case err := <-d.ended:
			return fmt.Errorf("dev ended: %w\n%s", err, text)
		case <-deadline:
			return fmt.Errorf("dev is not ready:\n%s", text)
		case <-tick.C:
		}
	}
}

// end stops it as Ctrl-C does.
func (d *development) end() error {
	defer os.RemoveAll(d.folder)
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case err := <-d.ended:
		text := d.out.String()
		if err != nil {
			return fmt.Errorf("dev ended: %w\n%s", err, text)
		}
		if regexp.MustCompile(`DATA RACE|panic:`).MatchString(text) {
			return fmt.Errorf("dev says\n%s", text)
		}
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("dev does not end"), d.cmd.Process.Kill())
	}
}

// get asks the load balancer.
func (d *development) get(t *testing.T, path string, header http.Header) (status int, body string) {
	t.Helper()
	status, body, err := get(t.Context(), "http://"+d.address+path, header)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func get(ctx context.Context, url string, header http.Header) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// dial connects to a database until the test ends.
func dial(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx) // the server may be gone
	})
	return c
}

// execute runs statements as psql does: all of them, each in a transaction of its own unless they say otherwise.
func execute(t *testing.T, c *pgx.Conn, sql string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// output collects what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// missing skips a test for want of a program, except where nobody would notice.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
