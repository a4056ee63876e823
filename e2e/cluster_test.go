package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forgewire/infra/devstack"
)

const (
	apiKey      = "e2e-key-0123456789"
	tokenSecret = "e2e-secret-0123456789-0123456789"
)

// options say what a cluster is made of; the zero value is the usual one.
type options struct {
	server *devstack.Server                   // nil: the shared one
	url    string                             // of the database, if it exists already
	urls   func(replica int) (string, string) // what a replica gets for DATABASE_URL and LISTEN_DATABASE_URL
	env    []string                           // more environment
	idle   bool                               // make the database and start nothing
}

// cluster is several replicas on one database.
type cluster struct {
	t        testing.TB
	url      string // of the database, past every proxy
	replicas []*replica
}

// newCluster starts replicas that end with the test, and waits until they are ready.
func newCluster(t testing.TB, replicas int, o options) *cluster {
	t.Helper()
	if o.server == nil && o.url == "" {
		o.server = sharedServer(t)
	}
	c := &cluster{t: t, url: o.url}
	if c.url == "" {
		c.url = newDatabase(t, o.server)
	}
	for i := range replicas {
		db, listen := c.url, c.url
		if o.urls != nil {
			db, listen = o.urls(i)
		}
		c.replicas = append(c.replicas, newReplica(t, i, append([]string{
			"DATABASE_URL=" + db,
			"LISTEN_DATABASE_URL=" + listen,
		}, o.env...)))
	}
	if o.idle {
		return c
	}
	for _, r := range c.replicas {
		r.start()
	}
	for _, r := range c.replicas {
		r.waitReady(30 * time.Second)
	}
	return c
}

// replica is one process of `forgewire serve`.
type replica struct {
	t    testing.TB
	name string
	addr string
	env  []string
	log  *logBuffer
	// command starts it in another way than usual; nil for that.
	command []string

	binary string // "": the one of all tests

	mu   sync.Mutex
	cmd  *exec.Cmd     // nil when it does not run
	done chan struct{} // closed when cmd was reaped
	err  error         // how cmd ended
}

func newReplica(t testing.TB, i int, env []string) *replica {
	t.Helper()
	port := freePort(t)
	r := &replica{t: t, name: fmt.Sprintf("replica %c", 'A'+i), addr: fmt.Sprintf("127.0.0.1:%d", port), log: &logBuffer{}}
	r.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GORACE=halt_on_error=0",
		fmt.Sprintf("PORT=%d", port),
		"FORGEWIRE_API_KEY=" + apiKey,
		"FORGEWIRE_TOKEN_SECRET=" + tokenSecret,
		"FORGEWIRE_ALLOW_ANONYMOUS=true",
		"FORGEWIRE_DB_POOL_MIN=2", // a server starts a process for each
		"FORGEWIRE_LOG_FORMAT=text",
		`FORGEWIRE_NAMESPACES={"namespaces":[{"name":"chat","allow_publish_for_subscriber":true},{"name":"open","allow_publish_for_client":true}]}`,
	}, env...)
	t.Cleanup(r.cleanup)
	return r
}

func (r *replica) cleanup() {
	r.resume()
	r.kill()
	log := r.log.String()
	for _, bad := range []string{"DATA RACE", "panic:", "a handler panicked"} {
		if at := strings.Index(log, bad); at >= 0 {
			r.t.Errorf("%s: %s in its log:\n%s", r.name, bad, log[at:min(len(log), at+6000)])
		}
	}
	if r.t.Failed() {
		r.t.Logf("the end of %s's log:\n%s", r.name, log[max(0, len(log)-5000):])
	}
}

// start starts the process and does not wait for anything.
func (r *replica) start() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		r.t.Fatalf("%s runs already", r.name)
	}
	binary := r.binary
	if binary == "" {
		binary = forgewire(r.t)
	}
	cmd := exec.Command(binary, "serve", "--migrate")
	if r.command != nil {
		cmd = exec.Command(r.command[0], r.command[1:]...)
	}
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, r.log, r.log
	endWithUs(cmd)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	r.cmd, r.done, r.err = cmd, done, nil
	go func() {
		err := cmd.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cmd, r.err = nil, err
		close(done)
	}()
}

func (r *replica) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cmd != nil
}

func (r *replica) signal(s os.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(s) // it may have ended just now
	}
}

func (r *replica) pause()  { r.signal(syscall.SIGSTOP) }
func (r *replica) resume() { r.signal(syscall.SIGCONT) }

// wait returns how the process ended.
func (r *replica) wait(within time.Duration) error {
	r.t.Helper()
	r.mu.Lock()
	done := r.done
	r.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return r.err
	case <-time.After(within):
		r.t.Fatalf("%s did not end within %v", r.name, within)
		return nil
	}
}

// kill ends the process as a crash does.
func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	_ = r.wait(10 * time.Second) // killed is how it ends
}

// term ends the process in order and demands that it says so.
func (r *replica) term() {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	if err := r.wait(20 * time.Second); err != nil {
		r.t.Errorf("%s ended with %v after SIGTERM", r.name, err)
	}
}

// readyz asks whether the replica is ready.
func (r *replica) readyz() (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.addr+"/readyz", nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// ready returns why the replica is not ready, or "".
func (r *replica) ready() string {
	status, body, err := r.readyz()
	switch {
	case err != nil:
		return err.Error()
	case status != http.StatusOK:
		return fmt.Sprintf("%d %s", status, body)
	}
	return ""
}

func (r *replica) waitReady(within time.Duration) {
	r.t.Helper()
	until(r.t, within, r.name+" ready", func() string {
		if !r.running() {
			r.t.Fatalf("%s ended: %v", r.name, r.err)
		}
		return r.ready()
	})
}

// position is a message's place in the log.
type position struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

// apiError is what the server API answers instead of a result.
type apiError struct {
	Status  int    `json:"-"`
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%d: %d %s", e.Status, e.Code, e.Message) }

var apiClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// call calls a method of the server API and decodes its result into the pointer.
func (r *replica) call(ctx context.Context, method string, request, result any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	status, reply, err := r.post(ctx, method, apiKey, body)
	if err != nil {
		return err
	}
	var envelope struct {
		Result json.RawMessage `json:"result"`
		Error  *apiError       `json:"error"`
	}
	if err = json.Unmarshal(reply, &envelope); err != nil {
		return fmt.Errorf("status %d, body %q: %w", status, reply, err)
	}
	if envelope.Error != nil {
		envelope.Error.Status = status
		return envelope.Error
	}
	if status != http.StatusOK || envelope.Result == nil {
		return fmt.Errorf("status %d, body %q", status, reply)
	}
	return json.Unmarshal(envelope.Result, result)
}

// post sends a body to the server API as it is.
func (r *replica) post(ctx context.Context, method, key string, body []byte) (status int, reply []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.addr+"/api/"+method, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-API-Key", key)
	res, err := apiClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	reply, err = io.ReadAll(res.Body)
	return res.StatusCode, reply, err
}

// publish publishes over the server API.
func (r *replica) publish(ctx context.Context, channel string, data any) (position, error) {
	var p position
	err := r.call(ctx, "publish", map[string]any{"channel": channel, "data": data}, &p)
	return p, err
}

// mustPublish is publish where nothing is wrong.
func (r *replica) mustPublish(channel string, data any) position {
	r.t.Helper()
	p, err := r.publish(context.Background(), channel, data)
	if err != nil {
		r.t.Fatalf("publish on %s: %v", r.name, err)
	}
	return p
}

type historyPage struct {
	position
	Publications []struct {
		Data   json.RawMessage `json:"data"`
		Offset uint64          `json:"offset"`
	} `json:"publications"`
}

// history reads a channel's past over the server API.
func (r *replica) history(channel string, limit int, since *position, reverse bool) (historyPage, error) {
	req := map[string]any{"channel": channel, "limit": limit, "reverse": reverse}
	if since != nil {
		req["since"] = since
	}
	var h historyPage
	err := r.call(context.Background(), "history", req, &h)
	return h, err
}

// command runs one of the binary's commands to its end and returns what it printed.
func (c *cluster) command(stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	binary := forgewire(c.t) // which builds it, if nobody did before: that is not the command's time
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + c.url, "FORGEWIRE_TOKEN_SECRET=" + tokenSecret}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// logBuffer collects a process's output.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var portsGiven sync.Map

// freePort finds a port that no other replica of this run was given.
func freePort(t testing.TB) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if _, twice := portsGiven.LoadOrStore(port, true); !twice {
			return port
		}
	}
}

// drainerAwake asks for the drainer's flag: it says awake if it is its sequence's own oid.
const drainerAwake = "SELECT last_value = 'forgewire.awake'::regclass::oid::bigint FROM forgewire.awake"
