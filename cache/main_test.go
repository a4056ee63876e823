package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
	"go.uber.org/goleak"

	"forgewire/infra/devstack"
)

// shared is one Valkey for all tests that do it no harm; the others start their own.
var shared *devstack.Server

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err == nil && code == 0 {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	dir, err := devstack.MkdirTemp("", "cache-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	shared, err = devstack.StartValkey(context.Background(), dir, nil, nil)
	if err != nil && !errors.Is(err, devstack.ErrNoValkey) {
		return 1, err
	}
	code := m.Run()
	if shared != nil {
		err = shared.Stop(context.Background())
	}
	return code, err
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func sharedURL(t testing.TB) string {
	t.Helper()
	if shared == nil {
		t.Skip(devstack.ErrNoValkey)
	}
	return shared.URL()
}

// admin is a plain connection, to do to the server what others may do to it.
func admin(t testing.TB, url string) valkey.Client {
	t.Helper()
	option, err := valkey.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	option.ForceSingleClient, option.DisableCache = true, true
	client, err := valkey.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// tell sends one command, which must succeed.
func tell(t testing.TB, client valkey.Client, words ...string) valkey.ValkeyResult {
	t.Helper()
	reply := client.Do(testContext(t), client.B().Arbitrary(words...).Build())
	if err := reply.Error(); err != nil && !valkey.IsValkeyNil(err) {
		t.Fatalf("%v: %v", words, err)
	}
	return reply
}

// start makes a cache and runs it for as long as the test lasts.
func start(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, stop := startStoppable(t, cfg)
	t.Cleanup(stop)
	return c
}

func startStoppable(t testing.TB, cfg Config) (*Cache, func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return c, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// connected starts a cache and waits until Valkey answers it.
func connected(t testing.TB, url string) *Cache {
	t.Helper()
	c := start(t, Config{URL: url})
	awaitState(t, c, StateTracking)
	return c
}

// patient is one on the Valkey that the tests share, to which a server that is slow, as on a busy machine, is not away.
func patient(t testing.TB) *Cache {
	t.Helper()
	c := start(t, Config{URL: sharedURL(t), patience: commandTimeout})
	awaitState(t, c, StateTracking)
	return c
}

func awaitState(t testing.TB, c *Cache, want State) {
	t.Helper()
	eventually(t, func() bool { return c.State() == want }, "the state is %s, want %s", c.State(), want)
}

// eventually waits for a condition.
func eventually(t testing.TB, met func() bool, format string, args ...any) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !met() {
		select {
		case <-deadline:
			t.Fatalf(format, args...)
		case <-ticker.C:
		}
	}
}

// mustGet waits for the key to have this value: a single look-up may be a miss at any
// time, on a machine that is busy with other things.
func mustGet(t testing.TB, c *Cache, key, want string) {
	t.Helper()
	eventually(t, func() bool {
		e, ok := c.Get(context.Background(), key)
		return ok && string(e.Value) == want
	}, "%q never is %q", key, want)
}

func mustMiss(t testing.TB, c *Cache, key string) {
	t.Helper()
	if e, ok := c.Get(context.Background(), key); ok {
		t.Errorf("%q is %q, from %s, want a miss", key, e.Value, e.Source)
	}
}

// local waits until the key is served from this process.
func mustBeLocal(t testing.TB, c *Cache, key, want string) {
	t.Helper()
	eventually(t, func() bool {
		e, ok := c.Get(context.Background(), key)
		return ok && e.Source == Local && string(e.Value) == want
	}, "%q is never served from here as %q", key, want)
}

// put stores, and tries again while the server is slow.
func put(t testing.TB, c *Cache, key, value string, o SetOptions) {
	t.Helper()
	if o.TTL == 0 {
		o.TTL = time.Hour
	}
	eventually(t, func() bool {
		c.Set(context.Background(), key, []byte(value), o)
		e, ok := c.Get(context.Background(), key)
		return ok && string(e.Value) == value
	}, "%q cannot be stored", key)
}

// bus joins caches of one process, in order, as the log joins replicas.
type bus struct {
	mu     sync.Mutex
	caches []*Cache
	err    error
	sent   int
}

func (b *bus) Announce(_ context.Context, topic string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if topic != Topic {
		return errors.New("wrong topic")
	}
	b.sent++
	for _, c := range b.caches {
		c.Announced(data)
	}
	return nil
}

func (b *bus) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *bus) join(t testing.TB, n int) []*Cache {
	t.Helper()
	var all []*Cache
	for range n {
		all = append(all, start(t, Config{Bus: b}))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.caches = all
	return all
}

var names sync.Map // of *testing.T

// unique is the test's name with something that makes its keys in the shared Valkey its
// own, also when it runs twice.
func unique(t testing.TB) string {
	name, _ := names.LoadOrStore(t, t.Name()+rand.Text())
	return name.(string)
}
