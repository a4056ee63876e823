package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ledger is what the publishers of one test were told.
type ledger struct {
	mu      sync.Mutex
	n       int
	all     []sent
	acked   int
	failed  int
	slowest time.Duration // of the answers, also of errors
	why     map[string]int
	told    bool // when accidents that lose commits begin and end: in between, risky is set
	risky   bool
}

func newLedger() *ledger { return &ledger{why: map[string]int{}} }

// id makes an id that no other message has.
func (l *ledger) id(by string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return fmt.Sprintf("%s-%d", by, l.n)
}

// note writes down what became of a message. offset is 0 where the publisher is not told.
func (l *ledger) note(channel, id string, offset uint64, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, sent{channel: channel, id: id, acked: err == nil, offset: offset, safe: l.told && !l.risky})
	l.slowest = max(l.slowest, took)
	if err == nil {
		l.acked++
		return
	}
	l.failed++
	l.why[err.Error()]++
}

func (l *ledger) counts() (acked, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.failed
}

// body is a test's message.
func body(id string) map[string]any { return map[string]any{"id": id} }

// post publishes one message over a replica's server API and writes down what it was told.
func (l *ledger) post(r *replica, channel string) (id string, p position, err error) {
	id = l.id("http")
	start := time.Now()
	p, err = r.publish(context.Background(), channel, body(id))
	l.note(channel, id, p.Offset, err, time.Since(start))
	return id, p, err
}

// mustPost is post where nothing is wrong.
func (l *ledger) mustPost(r *replica, channel string) (id string, p position) {
	r.t.Helper()
	id, p, err := l.post(r, channel)
	if err != nil {
		r.t.Fatalf("publish on %s: %v", r.name, err)
	}
	return id, p
}

// insert publishes one message from SQL on a connection.
func (l *ledger) insert(ctx context.Context, c *pgx.Conn, channel string) (id string, err error) {
	id = l.id("sql")
	start := time.Now()
	data, _ := json.Marshal(body(id)) // a map of strings
	_, err = c.Exec(ctx, "SELECT forgewire.publish($1, $2::jsonb)", channel, string(data))
	l.note(channel, id, 0, err, time.Since(start))
	return id, err
}

// flood is publishers that go on until they are stopped.
type flood struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// floodEvery is how fast a publisher of a flood is, at most.
func floodEvery() time.Duration {
	if long() {
		return 10 * time.Millisecond
	}
	return 30 * time.Millisecond // it leaves the others of make test their part of the processors
}

// flood publishes without pause: over HTTP on each replica and from SQL, on all channels by turns.
func (c *cluster) flood(l *ledger, channels ...string) *flood {
	return c.floodThrough(l, c.url, channels...)
}

// floodThrough is flood whose SQL writer takes another way to the database.
func (c *cluster) floodThrough(l *ledger, sqlURL string, channels ...string) *flood {
	ctx, cancel := context.WithCancel(context.Background())
	f := &flood{cancel: cancel}
	for _, r := range c.replicas {
		for range 2 {
			f.run(ctx, channels, func(channel string) { _, _, _ = l.post(r, channel) }) // written down
		}
	}
	w := &sqlWriter{url: sqlURL}
	f.done.Go(func() {
		<-ctx.Done()
		w.close()
	})
	f.run(ctx, channels, func(channel string) { w.write(ctx, l, channel) })
	c.t.Cleanup(f.stop)
	return f
}

func (f *flood) run(ctx context.Context, channels []string, publish func(channel string)) {
	f.done.Go(func() {
		tick := time.NewTicker(floodEvery())
		defer tick.Stop()
		for i := rand.IntN(len(channels)); ; i++ {
			select {
			case <-tick.C:
				publish(channels[i%len(channels)])
			case <-ctx.Done():
				return
			}
		}
	})
}

// stop ends the publishers and waits for the last answers.
func (f *flood) stop() {
	f.cancel()
	f.done.Wait()
}

// sqlWriter publishes inside transactions, some of several messages, some rolled back, and connects again
// when its connection is lost.
type sqlWriter struct {
	url  string
	mu   sync.Mutex
	conn *pgx.Conn
	n    int
	also string // a statement with the message's id, in the same transaction; or none
}

func (w *sqlWriter) write(ctx context.Context, l *ledger, channel string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	// A statement that is under way when the flood ends ends by itself.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if w.conn == nil {
		conn, err := pgx.Connect(ctx, w.url)
		if err != nil {
			return
		}
		w.conn = conn
	}
	w.n++
	ids := make([]string, 1+w.n%3)
	rollback := w.n%10 == 0
	start := time.Now()
	err := w.transaction(ctx, l, channel, ids, rollback)
	for _, id := range ids {
		if id != "" && !rollback {
			l.note(channel, id, 0, err, time.Since(start))
		}
	}
	if err != nil {
		_ = w.conn.Close(ctx) // it may be dead
		w.conn = nil
	}
}

func (w *sqlWriter) transaction(ctx context.Context, l *ledger, channel string, ids []string, rollback bool) error {
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	for i := range ids {
		ids[i] = l.id("sql")
		data, _ := json.Marshal(body(ids[i])) // a map of strings
		if _, err = tx.Exec(ctx, "SELECT forgewire.publish($1, $2::jsonb)", channel, string(data)); err != nil {
			return err
		}
		if w.also == "" {
			continue
		}
		if _, err = tx.Exec(ctx, w.also, ids[i]); err != nil {
			return err
		}
	}
	if rollback {
		return nil
	}
	return tx.Commit(ctx)
}

func (w *sqlWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.conn.Close(ctx)
		w.conn = nil
	}
}

// readLog reads the whole log.
func readLog(t testing.TB, databaseURL string) (rows []row) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	found, err := c.Query(ctx, "SELECT seq, channel, data FROM forgewire.messages ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	var offset uint64
	var channel, data string
	_, err = pgx.ForEachRow(found, []any{&offset, &channel, &data}, func() error {
		if offset >= 1<<53 {
			t.Errorf("offset %d is more than JavaScript counts", offset)
		}
		rows = append(rows, row{offset: offset, channel: channel, id: idOf([]byte(data))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

var markers atomic.Int64

// settle waits until everybody has everything and checks it: after the flood, the outbox is empty, and then
// a last message goes to each channel, which every subscriber must see.
func (c *cluster) settle(l *ledger, subs ...*subscriber) {
	c.t.Helper()
	c.settleAs(l, false, subs...)
}

// settleAs is settle for a log that may have gone back.
func (c *cluster) settleAs(l *ledger, wentBack bool, subs ...*subscriber) {
	c.t.Helper()
	until(c.t, 30*time.Second, "the outbox running empty", func() string {
		n, err := tryQuery[int](c.url, "SELECT count(*) FROM forgewire.outbox")
		if err != nil {
			return err.Error()
		}
		if n > 0 {
			return fmt.Sprintf("%d wait", n)
		}
		return ""
	})
	last := map[string]string{}
	for _, s := range subs {
		for channel := range s.subs {
			last[channel] = ""
		}
	}
	for channel := range last {
		until(c.t, 30*time.Second, "the last publish", func() string {
			r := c.replicas[int(markers.Add(1))%len(c.replicas)]
			if !r.running() {
				return r.name + " does not run"
			}
			id, _, err := l.post(r, channel)
			if err != nil {
				return err.Error()
			}
			last[channel] = id
			return ""
		})
	}
	for _, s := range subs {
		for channel := range s.subs {
			s.waitFor(channel, last[channel], 45*time.Second)
		}
	}
	// The model's streams are channels too, and so is what is told of prompts, data sets and evaluations, some of it more than once.
	log := slices.DeleteFunc(readLog(c.t, c.url), func(r row) bool {
		return strings.HasPrefix(r.channel, "llm:") || strings.HasPrefix(r.channel, "llm-by:") || strings.HasPrefix(r.channel, "$prompts:") || strings.HasPrefix(r.channel, "$datasets:") || strings.HasPrefix(r.channel, "$evaluations:")
	})
	e := evidence{log: log, wentBack: wentBack}
	l.mu.Lock()
	e.sent = append(e.sent, l.all...)
	acked, failed, slowest, why := l.acked, l.failed, l.slowest, fmt.Sprint(l.why)
	l.mu.Unlock()
	for _, s := range subs {
		e.histories = append(e.histories, s.histories()...)
	}
	c.t.Logf("%d acknowledged, %d not; %d in the log; the slowest answer took %v", acked, failed, len(e.log), slowest.Round(time.Millisecond))
	if failed > 0 {
		c.t.Logf("errors: %s", why[:min(len(why), 1500)])
	}
	for _, what := range check(e) {
		c.t.Error(what)
	}
}

// bounded demands that every publish was answered, if only with an error, within a time.
func (l *ledger) bounded(t testing.TB, within time.Duration) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slowest > within {
		t.Errorf("an answer to a publish took %v", l.slowest)
	}
}

const veryFarOffset = math.MaxInt64 / 2
