package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// mixed is a deployment on which everybody works.
type mixed struct {
	cfg      MixedConfig
	sys      *system
	llm      *llmSystem // of our own; nil where the deployment runs elsewhere
	http     *httpSystem
	database string // for publishers in SQL; "" where there are none
	answers  []target
	model    string // that LLM clients ask for; "" for those of the mix
	channels []string
	notes    []string // what was left out, and why

	publishers []*publisher
	firstSQL   int // among them

	mu     sync.Mutex
	cached int // answers that were no call of their own; guarded by mu
	asked  int // guarded by mu

	// What came of it.
	ended []*actor
	bySQL *histogram // from the commit's being due until received
}

// Connections of each kind: how many can be under way at once.
const (
	mixedPublishers = 16
	mixedSQL        = 8
	mixedHTTP       = 32
	mixedLLM        = 256
)

func startMixed(ctx context.Context, cfg MixedConfig) (m *mixed, err error) {
	m = &mixed{cfg: cfg, http: &httpSystem{}, firstSQL: mixedPublishers}
	for i := range cfg.Channels {
		m.channels = append(m.channels, fmt.Sprintf("bench-%s-%d", rand.Text()[:8], i))
	}
	if cfg.Target.Given() {
		return m, m.deployed(ctx)
	}
	fmt.Fprintf(cfg.Progress, "starting a private PostgreSQL, Valkey, a fake model and %d replicas\n", cfg.Replicas)
	m.llm, err = startLLM(ctx, LLMConfig{Setup: cfg.Setup, Replicas: cfg.Replicas, Tokens: 1})
	if err != nil {
		return nil, err
	}
	m.sys, m.database, m.answers = m.llm.system(), m.llm.database, m.llm.ours
	m.http.stack, m.http.base, m.http.key = m.llm.stack, m.llm.replicas[0].url, m.llm.apiKey
	if err = m.prepare(ctx); err != nil {
		return nil, errors.Join(err, m.stop(ctx))
	}
	return m, nil
}

// deployed is one that runs elsewhere: what was not given for it is left out.
func (m *mixed) deployed(ctx context.Context) (err error) {
	t := m.cfg.Target
	if m.sys, err = deployment(t); err != nil {
		return err
	}
	m.http.base, m.http.key = m.sys.replicas[0], t.Key
	m.http.sent.Store(time.Now().UnixNano()) // names are of one run alone
	if m.database = t.Database; m.database == "" && m.cfg.SQL > 0 {
		m.cfg.SQL, m.notes = 0, append(m.notes, "Left out: publishers in SQL, who need --database-url.")
	}
	if m.model = t.Model; m.model == "" && m.cfg.LLM > 0 {
		m.cfg.LLM, m.notes = 0, append(m.notes, "Left out: LLM clients, who need --model, which may cost money.")
	}
	for _, u := range m.sys.replicas {
		m.answers = append(m.answers, target{base: u, key: t.Key, real: true})
	}
	return m.prepare(ctx)
}

// prepare makes the prompt that is read, and the table that publishers in SQL insert into.
func (m *mixed) prepare(ctx context.Context) error {
	if m.cfg.Cached+m.cfg.Uncached+m.cfg.Write > 0 {
		if _, err := m.http.makePrompt(ctx); err != nil {
			return err
		}
	}
	if m.cfg.SQL == 0 {
		return nil
	}
	return m.exec(ctx, tables)
}

func (m *mixed) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, m.database)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err = conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	return nil
}

func (m *mixed) stop(ctx context.Context) (err error) {
	if m.llm != nil {
		return m.llm.stop(ctx)
	}
	if m.cfg.SQL > 0 {
		return m.exec(context.WithoutCancel(ctx), "DROP SCHEMA forgewire_bench CASCADE")
	}
	return nil
}

// finish publishes each channel's last message: in SQL, if anybody did so, behind what is not yet drained.
func (m *mixed) finish(ctx context.Context, l load) error {
	if m.cfg.SQL == 0 {
		return m.sys.finish(ctx, l, m.channels)
	}
	conn, err := pgx.Connect(ctx, m.database)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for i, name := range m.channels {
		data := newData(l.size)
		stamp(data, endOfRun, i)
		if _, err = conn.Exec(ctx, "SELECT forgewire.publish($1, $2)", name, data); err != nil {
			return fmt.Errorf("publish the last message: %w", err)
		}
	}
	return nil
}

// saved is the share of LLM requests that were no call of their own.
func (m *mixed) saved() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return ratio(float64(m.cached), float64(m.asked))
}

func (m *mixed) actors(w window) (all []*actor) {
	add := func(name string, rate, workers int, connect func(ctx context.Context, i int) (client, error)) {
		if rate > 0 {
			all = append(all, &actor{name: name, loop: openLoop{total: int(float64(rate) * (m.cfg.Warmup + m.cfg.Duration).Seconds()), at: evenly(float64(rate)),
				warmup: m.cfg.Warmup, workers: workers, connect: connect}})
		}
	}
	m.publishers = make([]*publisher, mixedPublishers+mixedSQL)
	for i := range m.publishers {
		m.publishers[i] = &publisher{number: i, publish: newHistogramOf(i, m.publishers)}
	}
	add(actHTTP, m.cfg.Publish, mixedPublishers, func(ctx context.Context, i int) (client, error) {
		c, err := dialPublish(ctx, m.replica(i), m.sys.apiKey, m.channels[i%len(m.channels)], m.cfg.Size)
		return &timely{publisher: m.publishers[i], conn: c, window: w}, err
	})
	add(actSQL, m.cfg.SQL, mixedSQL, func(ctx context.Context, i int) (client, error) { return m.transactor(ctx, i, w) })
	m.readers(add)
	if m.cfg.LLM > 0 {
		all = append(all, m.askers())
	}
	return all
}

func (m *mixed) replica(i int) *url.URL { return m.sys.replicas[i%len(m.sys.replicas)] }

// readers and writers, of all replicas.
func (m *mixed) readers(add func(name string, rate, workers int, connect func(ctx context.Context, i int) (client, error))) {
	kinds := m.http.kinds()
	for _, r := range []struct {
		name string
		rate int
		kind httpKind
	}{{actCached, m.cfg.Cached, kinds[0]}, {actUncached, m.cfg.Uncached, kinds[1]}, {actWrite, m.cfg.Write, kinds[suiteWrite(kinds)]}} {
		add(r.name, r.rate, mixedHTTP, func(ctx context.Context, i int) (client, error) {
			side := r.kind.ours
			side.base = m.replica(i)
			return side.client(ctx)
		})
	}
}

// askers are the LLM clients: the mix, at our rate.
func (m *mixed) askers() *actor {
	mix := Mixes(m.cfg.Warmup + m.cfg.Duration)[0]
	mix.Rate = float64(m.cfg.LLM)
	requests := mix.requests(m.cfg.Seed)
	if m.model != "" {
		for i := range requests {
			requests[i].model = m.model
		}
	}
	count := func(_ time.Duration, r llmReply) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.asked++; r.cache != "miss" {
			m.cached++
		}
	}
	return &actor{name: actLLM, loop: askLoop(m.answers, mixedLLM, requests, m.cfg.Warmup, count)}
}

// transactor publishes in transactions that do some business, too.
type transactor struct {
	*publisher
	ctx     context.Context // of the measurement, which is as long as it lives
	conn    *pgx.Conn
	channel string
	data    []byte
	window  window
}

func (m *mixed) transactor(ctx context.Context, i int, w window) (client, error) {
	conn, err := pgx.Connect(ctx, m.database)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	p := m.publishers[m.firstSQL+i]
	return &transactor{publisher: p, ctx: ctx, conn: conn, channel: m.channels[p.number%len(m.channels)], data: newData(m.cfg.Size), window: w}, nil
}

func (t *transactor) do(i int, due time.Time) error {
	return t.one(t.data, due.UnixNano(), t.window, func() (uint64, error) {
		err := pgx.BeginFunc(t.ctx, t.conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.ctx, "INSERT INTO forgewire_bench.orders (customer, amount, note) VALUES ($1, 12.50, 'a business insert')", i)
			if err == nil {
				_, err = tx.Exec(t.ctx, "SELECT forgewire.publish($1, $2)", t.channel, t.data)
			}
			return err //nolint:wrapcheck // it is named by its kind
		})
		if err != nil {
			return 0, fmt.Errorf("publish in a transaction: %w", err)
		}
		return unknownOffset, nil
	})
}

func (t *transactor) close() { _ = t.conn.Close(context.WithoutCancel(t.ctx)) }
