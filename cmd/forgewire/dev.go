package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"forgewire/db"
	"forgewire/handlers/demo"
	"forgewire/infra/config"
	"forgewire/infra/devstack"
	"forgewire/infra/logging"
)

const (
	loopback       = "127.0.0.1"
	keysFile       = "keys.json"            // in the data folder
	stackStopGrace = 10 * time.Second       // for the servers, at the end
	readyTimeout   = 20 * time.Second       // from the start of the replicas until they can serve
	readyEvery     = 20 * time.Millisecond  // how often we ask
	watchEvery     = 500 * time.Millisecond // how often we look whether the servers are still there
)

// devDefaults are our choices where the environment says nothing: whoever opens the page may join in, and
// the terminal shows what is wrong and is otherwise left to the summary.
var devDefaults = []string{
	"FORGEWIRE_ALLOW_ANONYMOUS=true",
	`FORGEWIRE_NAMESPACES={"without_namespace":{"allow_publish_for_subscriber":true,"presence":true,"join_leave":true},"namespaces":[{"name":"cursor","ephemeral":true,"allow_publish_for_subscriber":true}]}`,
	"FORGEWIRE_LOG_LEVEL=warn",
	"FORGEWIRE_LOG_FORMAT=text",
}

type devCommand struct {
	Data      string `help:"Folder of the database and the keys, which survive a restart." placeholder:"DIR" default:".forgewire" type:"path"`
	Ephemeral bool   `help:"Keep nothing: use a temporary folder, and remove it at the end."`
}

// Help says what there is to know beside the flags.
func (*devCommand) Help() string {
	return "Listens on 127.0.0.1 only: on PORT if that is set, else on 8080, or on a free port if 8080 is taken. " +
		"It answers to this machine's names and to those in FORGEWIRE_ALLOWED_ORIGINS. " +
		"The FORGEWIRE_ variables of `serve` are honoured; the database is always its own. " +
		"Without FORGEWIRE_UPSTREAM_URL or FORGEWIRE_UPSTREAMS it starts a model that imitates one. For development, never for production."
}

// Run starts everything, prints where it is, and ends in reverse order when ctx does: the replicas drain, then
// the servers stop.
func (c *devCommand) Run(ctx context.Context) (err error) {
	environ := devEnviron(os.Environ())
	cfg, err := config.LoadOnly(environ) // mistakes are told before anything is started
	if err != nil {
		return err
	}
	front, err := listenFront(ctx, cfg.Port, given(environ, "PORT"))
	if err != nil {
		return err
	}
	defer front.Close() // a second time if it was served, which does nothing

	dir := c.Data
	if c.Ephemeral {
		dir = ""
	}
	stack, err := devstack.Start(ctx, devstack.Config{Dir: dir, Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stackStopGrace)
		defer cancel()
		err = errors.Join(err, stack.Stop(stopCtx))
	}()
	if err = db.Migrate(ctx, stack.Postgres.URL()); err != nil {
		return err
	}
	keys, err := loadKeys(dir)
	if err != nil {
		return err
	}
	imitated := !hasUpstream(cfg)
	if imitated {
		model, err := startImitation()
		if err != nil {
			return err
		}
		defer model.Close()
		environ = append(environ, "FORGEWIRE_UPSTREAM_URL="+model.URL())
	}
	if cfg, err = config.Load(append(stackEnviron(stack, keys), environ...)); err != nil {
		return err
	}
	d := &devCluster{cfg: cfg, stack: stack, front: front, dir: dir, imitated: imitated, logger: logging.New(os.Stderr, cfg.LogLevel, cfg.LogFormat)}
	return d.run(ctx, os.Stdout)
}

// devEnviron is what `dev` takes from the environment. The database is the private one, so the variables that
// lead to another are left out. An empty value means none, as in infra/config.
func devEnviron(environ []string) []string {
	kept := append([]string(nil), devDefaults...)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if strings.TrimSpace(value) != "" && (name == "PORT" || strings.HasPrefix(name, "FORGEWIRE_")) {
			kept = append(kept, e)
		}
	}
	return kept
}

// stackEnviron is what `dev` makes itself.
func stackEnviron(stack *devstack.Stack, keys devKeys) []string {
	made := []string{
		"DATABASE_URL=" + stack.Postgres.URL(),
		"FORGEWIRE_API_KEY=" + keys.APIKey,
		"FORGEWIRE_TOKEN_SECRET=" + keys.TokenSecret,
	}
	if stack.Valkey != nil {
		made = append(made, "VALKEY_URL="+stack.Valkey.URL())
	}
	return made
}

func given(environ []string, name string) bool {
	for _, e := range environ {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// listenFront listens where the load balancer will serve. Only a port that nobody asked for is replaced.
func listenFront(ctx context.Context, port int, asked bool) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil && !asked && errors.Is(err, syscall.EADDRINUSE) {
		ln, err = listenAnywhere(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w: set PORT to a free one", port, err)
	}
	return ln, nil
}

func listenAnywhere(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
}

// devKeys are made once for a data folder, so that what a developer has configured stays right.
type devKeys struct {
	APIKey      string `json:"api_key"`
	TokenSecret string `json:"token_secret"`
}

// loadKeys reads the keys of a data folder, or makes them. Without a folder they last as long as we do.
func loadKeys(dir string) (devKeys, error) {
	keys := devKeys{APIKey: rand.Text(), TokenSecret: rand.Text() + rand.Text()}
	if dir == "" {
		return keys, nil
	}
	file := filepath.Join(dir, keysFile)
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return keys, saveKeys(file, keys)
	}
	if err != nil {
		return keys, fmt.Errorf("read the keys: %w", err)
	}
	if err = json.Unmarshal(content, &keys); err != nil {
		return keys, fmt.Errorf("read the keys: %s: %w: remove it, and new ones are made", file, err)
	}
	return keys, nil
}

// saveKeys leaves the whole file or none.
func saveKeys(file string, keys devKeys) error {
	content, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the keys: %w", err)
	}
	if err = os.WriteFile(file+".new", append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	if err = os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	return nil
}

// devCluster is what runs between the start of the servers and their end.
type devCluster struct {
	cfg    *config.Config
	stack  *devstack.Stack
	front  net.Listener
	dir    string // "" for a temporary one
	logger *slog.Logger

	imitated bool // the model is ours
}

// run returns when every part has ended: after ctx, or as soon as one fails.
func (d *devCluster) run(ctx context.Context, out io.Writer) error {
	url := "http://" + d.front.Addr().String()
	lines := d.lines(url)
	page := demo.Handler(lines)
	g, ctx := errgroup.WithContext(ctx)
	var backends []backend
	for _, name := range []string{"a", "b"} {
		address, err := d.startReplica(ctx, g, name, page)
		if err != nil {
			// What runs already sees this as its own failure and ends.
			g.Go(func() error { return err })
			return g.Wait()
		}
		backends = append(backends, backend{name: name, address: address})
	}
	// The replicas drain meanwhile, and the balancer waits a little longer for them.
	front := newBalancer(backends, d.cfg.ShutdownTimeout+time.Second, d.logger)
	front.hosts = ownHosts(d.cfg.AllowedOrigins)
	g.Go(func() error { return front.Run(ctx, d.front) })
	g.Go(func() error { return d.watch(ctx) })
	g.Go(func() error {
		for _, b := range backends {
			if err := waitReady(ctx, b); err != nil {
				return err
			}
		}
		if err := d.saveEnvironment(); err != nil {
			return err
		}
		return d.summary(url, backends, lines).write(out)
	})
	return g.Wait()
}

// startReplica starts one replica in g, and returns its address.
func (d *devCluster) startReplica(ctx context.Context, g *errgroup.Group, name string, page http.Handler) (string, error) {
	ln, err := listenAnywhere(ctx)
	if err != nil {
		return "", fmt.Errorf("start replica %s: %w", name, err)
	}
	cfg := *d.cfg
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		cfg.Port = tcp.Port
	}
	a, err := newApp(appConfig{Config: &cfg, Logger: d.logger, Replica: name, Demo: page, Hosts: ownHosts(cfg.AllowedOrigins)})
	if err != nil {
		ln.Close()
		return "", err
	}
	g.Go(func() error {
		if err := a.Run(ctx, ln, nil); err != nil {
			return fmt.Errorf("replica %s: %w", name, err)
		}
		return nil
	})
	return ln.Addr().String(), nil
}

// watch ends the command when a server has ended by itself: nobody would start it again.
func (d *devCluster) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if d.stack.Postgres.PID() == 0 {
			return errors.New("the private PostgreSQL has ended: start again, its data are kept unless --ephemeral was given")
		}
		if d.stack.Valkey != nil && d.stack.Valkey.PID() == 0 {
			return errors.New("the private Valkey has ended: start again")
		}
	}
}

// waitReady waits until the replica can serve, and says why if it does not.
func waitReady(ctx context.Context, b backend) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		reason := notReady(ctx, b)
		if reason == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil // we are to end
			}
			return fmt.Errorf("replica %s was not ready within %v: %s", b.name, readyTimeout, reason)
		}
	}
}

// notReady returns what /readyz says is missing, or "".
func notReady(ctx context.Context, b backend) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return ""
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(body))
}

// devSummary is what the developer is told once everything runs.
type devSummary struct {
	facts    [][2]string
	commands [][2]string
}

func (d *devCluster) summary(url string, backends []backend, lines demo.Config) devSummary {
	facts := [][2]string{{"Page", url}}
	for _, b := range backends {
		facts = append(facts, [2]string{"Replica " + b.name, "http://" + b.address})
	}
	facts = append(facts,
		[2]string{"API key", orNone(d.cfg.APIKey.Reveal())},
		[2]string{"Token secret", orNone(d.cfg.TokenSecret.Reveal())},
		[2]string{"OpenAI URL", url + "/v1"},
		[2]string{"Model", cmp.Or(lines.Model, "as the environment names it")},
		[2]string{"Postgres", d.stack.Postgres.URL()})
	if d.stack.Valkey != nil {
		facts = append(facts, [2]string{"Valkey", d.stack.Valkey.URL()})
	}
	data := d.dir
	if data == "" {
		data = "temporary, gone at the end"
	}
	commands := [][2]string{{"Publish from SQL", lines.PSQL}, {"Publish over HTTP", lines.Curl}}
	if d.dir != "" {
		commands = append(commands, [2]string{"In another terminal, for the commands of the documents", ". " + quote(filepath.Join(d.dir, environmentFile))})
	}
	return devSummary{facts: append(facts, [2]string{"Data", data}), commands: commands}
}

func orNone(key string) string {
	if key == "" {
		return "none"
	}
	return key
}

// write writes the summary at once, so that no log line gets in between.
func (s devSummary) write(out io.Writer) error {
	strong, plain := "", ""
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			strong, plain = "\x1b[1m", "\x1b[0m"
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %sForgewire %s is running%s\n\n", strong, version, plain)
	for _, f := range s.facts {
		fmt.Fprintf(&b, "    %-14s%s\n", f[0], f[1])
	}
	for _, c := range s.commands {
		fmt.Fprintf(&b, "\n  %s%s%s\n    %s\n", strong, c[0], plain, c[1])
	}
	b.WriteString("\n  Ctrl-C to stop\n\n")
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("print the summary: %w", err)
	}
	return nil
}
