package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// SQLConfig says how SQL measures.
type SQLConfig struct {
	Writers  int
	Rounds   int           // of all cases; medians are reported
	Slice    time.Duration // of one case in one round, in whole seconds
	Warmup   time.Duration // before each slice
	Database string        // migrated; "" for a private one

	Setup
}

// sqlDisk is the cases on one disk.
type sqlDisk struct {
	name      string
	cases     []*sqlCase
	published int           // in case c, all received
	lag       time.Duration // the longest, from the end of a slice of c to the last message received
}

// sqlCase is one case.
type sqlCase struct {
	name, what string
	rates      []float64
	cpu        []float64 // µs for a transaction, of everything of ours; steady also on a busy machine
	script     string
}

// Names of what SQL reports.
const (
	diskAsItIs   = "disk as it is"
	diskSlow     = "a flush 1 ms slower"
	transactions = "transactions"
)

// publishing is the case that a replica has to follow.
const publishing = "c"

// What the cases do.
const (
	sqlAlone   = "the insert alone"
	sqlSecond  = "with a plain second insert"
	sqlPublish = "with forgewire.publish"
	sqlNotify  = "with a second insert and NOTIFY"
)

const (
	insertOrder = "INSERT INTO forgewire_bench.orders (customer, amount, note) VALUES (:customer, 12.50, 'a business insert');\n"
	tables      = `DROP SCHEMA IF EXISTS forgewire_bench CASCADE;
CREATE SCHEMA forgewire_bench;
CREATE TABLE forgewire_bench.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL, amount numeric NOT NULL, note text NOT NULL);
CREATE TABLE forgewire_bench.plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, channel text NOT NULL, data text NOT NULL);`
	emptyTables = "TRUNCATE forgewire_bench.orders, forgewire_bench.plain"
)

// cases have the same number of round trips where they do the same number of things; d, which does three,
// does two of them in one.
func cases(channel string) []*sqlCase {
	data := `{"n": 1, "x": "` + strings.Repeat("x", 133) + `"}` // 150 bytes, as jsonb prints it
	transaction := func(second string) string {
		return "\\set customer random(1, 100000)\nBEGIN;\n" + insertOrder + second + "END;\n"
	}
	insertPlain := fmt.Sprintf("INSERT INTO forgewire_bench.plain (channel, data) VALUES ('%s', '%s')", channel, data)
	return []*sqlCase{
		{name: "a", what: sqlAlone, script: transaction("")},
		{name: "b", what: sqlSecond, script: transaction(insertPlain + ";\n")},
		{name: publishing, what: sqlPublish, script: transaction(fmt.Sprintf("SELECT forgewire.publish('%s', '%s');\n", channel, data))},
		{name: "d", what: sqlNotify, script: transaction("WITH i AS (" + insertPlain + ") SELECT pg_notify('x', '');\n")},
	}
}

// SQL measures what publishing in a transaction costs the transaction.
func SQL(ctx context.Context, cfg SQLConfig) (out *Result, err error) {
	if cfg.Writers < 1 || cfg.Rounds < 1 || cfg.Slice < time.Second {
		return nil, errors.New("writers and rounds must be positive, and a slice at least a second")
	}
	st, err := cfg.start(ctx, stackConfig{Database: cfg.Database, Replicas: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.stop(ctx)) }()
	b := &sqlBench{cfg: cfg, cpu: st.system().watched}
	if b.conn, err = pgx.Connect(ctx, st.database); err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	defer b.conn.Close(context.WithoutCancel(ctx))
	if err = b.exec(ctx, tables); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, b.exec(context.WithoutCancel(ctx), "DROP SCHEMA forgewire_bench CASCADE"))
	}()
	if b.pgbench, err = newPgbench(ctx, st.database, cfg.Writers); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.pgbench.close()) }()
	return b.follow(ctx, st)
}

// sqlBench is one run of SQL.
type sqlBench struct {
	cfg       SQLConfig
	conn      *pgx.Conn
	pgbench   *pgbench
	cpu       watched
	channel   string
	received  atomic.Int64  // messages, by the subscriber
	arrived   chan struct{} // capacity 1: received has grown
	committed int64         // publishes
}

// follow measures while a subscriber counts.
func (b *sqlBench) follow(ctx context.Context, st *stack) (*Result, error) {
	b.channel = "bench-" + rand.Text()[:8]
	b.arrived = make(chan struct{}, 1)
	sub, err := subscribe(ctx, st.replicas[0].url, "", []string{b.channel})
	if err != nil {
		return nil, err
	}
	defer sub.close()
	var out *Result
	g, running := errgroup.WithContext(ctx)
	defer context.AfterFunc(running, sub.close)()
	done := make(chan struct{})
	g.Go(func() error {
		err := b.count(sub)
		select {
		case <-done:
			return nil
		default:
			return err
		}
	})
	g.Go(func() (err error) {
		out, err = b.measure(running, st.private != nil)
		close(done)
		sub.close()
		return err
	})
	if err = g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// count counts what the subscriber receives, until its connection ends, and checks the order.
func (b *sqlBench) count(sub *subscriber) error {
	last := uint64(0)
	for {
		frame, err := sub.next(context.Background())
		if err != nil {
			return fmt.Errorf("the subscriber of case c: %w", err)
		}
		n := int64(0)
		for bytes.Contains(frame, offsetKey) {
			offset, rest, ok := findOffset(frame)
			if !ok || offset <= last {
				return fmt.Errorf("%w: offset %d came after %d", ErrBroken, offset, last)
			}
			last, frame = offset, rest
			n++
		}
		b.received.Add(n)
		select {
		case b.arrived <- struct{}{}:
		default:
		}
	}
}

func (b *sqlBench) measure(ctx context.Context, private bool) (*Result, error) {
	out := &Result{Bench: "sql", What: fmt.Sprintf("what publishing costs a transaction with a business insert: %d writers, medians of %d rounds of %.3g s; a replica drains meanwhile",
		b.cfg.Writers, b.cfg.Rounds, b.cfg.Slice.Seconds())}
	disk, err := b.disk(ctx, diskAsItIs)
	if err != nil {
		return nil, err
	}
	disk.report(out)
	if !private {
		out.Notes = append(out.Notes, "A slow disk is imitated only on a private server: it takes settings of the whole server.")
		return out, nil
	}
	// Every flush waits a millisecond first, whoever else is there.
	for _, statement := range []string{"ALTER SYSTEM SET commit_delay = 1000", "ALTER SYSTEM SET commit_siblings = 0", "SELECT pg_reload_conf()"} {
		if err = b.exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	if disk, err = b.disk(ctx, diskSlow); err != nil {
		return nil, err
	}
	disk.report(out)
	return out, nil
}

// disk measures all cases in turns, so that what the machine does at one time meets all of them alike.
func (b *sqlBench) disk(ctx context.Context, name string) (*sqlDisk, error) {
	d := &sqlDisk{name: name, cases: cases(b.channel)}
	before := b.committed
	for round := range b.cfg.Rounds {
		fmt.Fprintf(b.cfg.Progress, "%s, round %d of %d\n", name, round+1, b.cfg.Rounds)
		for i := range d.cases {
			c := d.cases[(i+round)%len(d.cases)]
			lag, err := b.slice(ctx, c)
			if err != nil {
				return d, fmt.Errorf("%s: %w", c.what, err)
			}
			d.lag = max(d.lag, lag)
		}
	}
	d.published = int(b.committed - before)
	return d, nil
}

// report adds what was found. Ratios are medians over the rounds; by CPU time they are what they would be if that were
// all that counts.
func (d *sqlDisk) report(out *Result) {
	t := &Table{Name: d.name, Charts: []Chart{{Title: "transactions, " + d.name, Kind: bars, Y: transactions}}}
	ratios := &Table{Name: d.name + ", ratios"}
	rates, cpu := map[string][]float64{}, map[string]float64{}
	for _, c := range d.cases {
		rates[c.name], cpu[c.name] = c.rates, median(c.cpu)
		row := &Row{Name: c.what, Figures: []Figure{more(transactions, "/s", median(c.rates))}}
		if len(c.cpu) > 0 {
			row.Figures = append(row.Figures, less("CPU of one", "µs", median(c.cpu)))
		}
		t.Rows = append(t.Rows, row)
	}
	for _, pair := range []struct{ over, under, name string }{
		{"c", "b", "forgewire.publish beside a plain second insert"}, {"c", "a", "forgewire.publish beside the insert alone"},
		{"d", "a", "a second insert and NOTIFY beside the insert alone"}, {"b", "a", "a plain second insert beside the insert alone"},
	} {
		var each []float64
		for i := range rates[pair.over] {
			each = append(each, ratio(rates[pair.over][i], rates[pair.under][i]))
		}
		row := &Row{Name: pair.name, Figures: []Figure{plain("rate", "×", median(each))}}
		if strings.Contains(pair.name, "forgewire") {
			row.Figures[0].Better = More
		}
		if used := ratio(cpu[pair.under], cpu[pair.over]); used > 0 {
			row.Figures = append(row.Figures, plain("by CPU time", "×", used)) // the rate is what a transaction costs, turned over
		}
		ratios.Rows = append(ratios.Rows, row)
	}
	out.Tables = append(out.Tables, t, ratios)
	out.Notes = append(out.Notes, fmt.Sprintf("%s: all %d published messages were received, once and in order; the last at most %d ms after its slice.",
		d.name, d.published, d.lag.Milliseconds()))
}

// slice measures one case once, and returns how long the drain took after its end.
func (b *sqlBench) slice(ctx context.Context, c *sqlCase) (lag time.Duration, err error) {
	if err = b.exec(ctx, emptyTables); err != nil {
		return 0, err
	}
	before, err := b.cpu.total()
	o, runErr := b.pgbench.run(ctx, c.script, b.cfg.Warmup, b.cfg.Slice)
	if runErr != nil {
		return 0, runErr
	}
	c.rates = append(c.rates, o.rate)
	if c.name == publishing {
		if lag, runErr = b.drained(ctx, o.committed); runErr != nil {
			return 0, runErr
		}
	}
	if err != nil {
		return lag, nil //nolint:nilerr // this system does not tell: the report goes without
	}
	if after, err := b.cpu.total(); err == nil {
		c.cpu = append(c.cpu, ratio(float64((after-before).Microseconds()), float64(o.committed)))
	}
	return lag, nil
}

// drainPatience is how long nothing may arrive while something is missing.
const drainPatience = 20 * time.Second

// drained waits until the subscriber has what was committed, and returns how long that took.
func (b *sqlBench) drained(ctx context.Context, committed int) (time.Duration, error) {
	b.committed += int64(committed)
	start := time.Now()
	for b.received.Load() < b.committed {
		select {
		case <-b.arrived:
		case <-time.After(drainPatience):
			return 0, fmt.Errorf("%w: of %d messages that were committed, %d were received", ErrBroken, b.committed, b.received.Load())
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if got := b.received.Load(); got > b.committed {
		return 0, fmt.Errorf("%w: %d messages were committed and %d received", ErrBroken, b.committed, got)
	}
	return time.Since(start), nil
}

func (b *sqlBench) exec(ctx context.Context, statement string) error {
	if _, err := b.conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	return nil
}
