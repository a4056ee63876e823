package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
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

	Binary   string    // forgewire, for the replica
	Environ  []string  // of which the replica gets the variables of the Go runtime
	Progress io.Writer // gets a line for each step
}

// SQLReport is what SQL found.
type SQLReport struct {
	CPUs    int       `json:"cpus"`
	Server  string    `json:"postgres"`
	Writers int       `json:"writers"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"` // of a slice
	Disks   []SQLDisk `json:"disks"`
}

// SQLDisk is the cases on one disk.
type SQLDisk struct {
	Disk      string             `json:"disk"`
	Cases     []SQLCase          `json:"cases"`
	Ratios    map[string]float64 `json:"ratios"`                  // medians over the rounds of "c/b", "c/a", "d/a", "b/a"
	ByCPU     map[string]float64 `json:"ratios_by_cpu,omitempty"` // what they would be if CPU time were all that counts
	Published int                `json:"published"`               // in case c, all received
	LagMS     float64            `json:"longest_drain_ms"`        // from the end of a slice of c to the last message received
}

// SQLCase is one case.
type SQLCase struct {
	Name   string    `json:"name"`
	What   string    `json:"what"`
	Rate   float64   `json:"transactions_per_second"` // median of Rates
	Rates  []float64 `json:"rates"`
	CPU    float64   `json:"cpu_us_per_transaction,omitempty"` // median, of everything of ours; steady also on a busy machine
	cpu    []float64
	script string
}

// publishing is the case that a replica has to follow.
const publishing = "c"

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
func cases(channel string) []*SQLCase {
	data := `{"n": 1, "x": "` + strings.Repeat("x", 133) + `"}` // 150 bytes, as jsonb prints it
	transaction := func(second string) string {
		return "\\set customer random(1, 100000)\nBEGIN;\n" + insertOrder + second + "END;\n"
	}
	insertPlain := fmt.Sprintf("INSERT INTO forgewire_bench.plain (channel, data) VALUES ('%s', '%s')", channel, data)
	return []*SQLCase{
		{Name: "a", What: "a business insert alone", script: transaction("")},
		{Name: "b", What: "+ a plain second insert", script: transaction(insertPlain + ";\n")},
		{Name: publishing, What: "+ forgewire.publish", script: transaction(fmt.Sprintf("SELECT forgewire.publish('%s', '%s');\n", channel, data))},
		{Name: "d", What: "+ a second insert and NOTIFY", script: transaction("WITH i AS (" + insertPlain + ") SELECT pg_notify('x', '');\n")},
	}
}

// SQL measures what publishing in a transaction costs the transaction.
func SQL(ctx context.Context, cfg SQLConfig) (report *SQLReport, err error) {
	if cfg.Writers < 1 || cfg.Rounds < 1 || cfg.Slice < time.Second {
		return nil, errors.New("writers and rounds must be positive, and a slice at least a second")
	}
	st, err := startStack(ctx, stackConfig{Binary: cfg.Binary, Environ: cfg.Environ, Database: cfg.Database, Replicas: 1, Progress: cfg.Progress})
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
func (b *sqlBench) follow(ctx context.Context, st *stack) (*SQLReport, error) {
	b.channel = "bench-" + rand.Text()[:8]
	b.arrived = make(chan struct{}, 1)
	sub, err := subscribe(ctx, st.replicas[0].url, "", []string{b.channel})
	if err != nil {
		return nil, err
	}
	defer sub.close()
	var report *SQLReport
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
		report, err = b.measure(running, st.private != nil)
		close(done)
		sub.close()
		return err
	})
	if err = g.Wait(); err != nil {
		return nil, err
	}
	return report, nil
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

func (b *sqlBench) measure(ctx context.Context, private bool) (*SQLReport, error) {
	report := &SQLReport{CPUs: runtime.NumCPU(), Writers: b.cfg.Writers, Rounds: b.cfg.Rounds, Seconds: b.cfg.Slice.Seconds()}
	if err := b.conn.QueryRow(ctx, "SHOW server_version").Scan(&report.Server); err != nil {
		return nil, fmt.Errorf("ask for the server's version: %w", err)
	}
	disk, err := b.disk(ctx, "as it is")
	if err != nil {
		return nil, err
	}
	report.Disks = append(report.Disks, disk)
	if !private {
		fmt.Fprintln(b.cfg.Progress, "a slow disk is imitated only on a private server: it takes settings of the whole server")
		return report, nil
	}
	// Every flush waits a millisecond first, whoever else is there.
	for _, statement := range []string{"ALTER SYSTEM SET commit_delay = 1000", "ALTER SYSTEM SET commit_siblings = 0", "SELECT pg_reload_conf()"} {
		if err = b.exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	if disk, err = b.disk(ctx, "a flush 1 ms slower"); err != nil {
		return nil, err
	}
	report.Disks = append(report.Disks, disk)
	return report, nil
}

// disk measures all cases in turns, so that what the machine does at one time meets all of them alike.
func (b *sqlBench) disk(ctx context.Context, name string) (SQLDisk, error) {
	d := SQLDisk{Disk: name, Ratios: map[string]float64{}, ByCPU: map[string]float64{}}
	all := cases(b.channel)
	before := b.committed
	for round := range b.cfg.Rounds {
		fmt.Fprintf(b.cfg.Progress, "disk %s, round %d of %d\n", name, round+1, b.cfg.Rounds)
		for i := range all {
			c := all[(i+round)%len(all)]
			lag, err := b.slice(ctx, c)
			if err != nil {
				return d, fmt.Errorf("case %s: %w", c.Name, err)
			}
			d.LagMS = max(d.LagMS, float64(lag.Microseconds())/1000)
		}
	}
	rates, cpu := map[string][]float64{}, map[string]float64{}
	for _, c := range all {
		c.Rate, c.CPU = median(c.Rates), median(c.cpu)
		rates[c.Name], cpu[c.Name] = c.Rates, c.CPU
		d.Cases = append(d.Cases, *c)
	}
	for _, pair := range []string{"b/a", "c/b", "c/a", "d/a"} {
		over, under, _ := strings.Cut(pair, "/")
		var each []float64
		for i := range rates[over] {
			each = append(each, ratio(rates[over][i], rates[under][i]))
		}
		d.Ratios[pair] = median(each)
		d.ByCPU[pair] = ratio(cpu[under], cpu[over]) // the rate is what a transaction costs, turned over
	}
	d.Published = int(b.committed - before)
	return d, nil
}

// slice measures one case once, and returns how long the drain took after its end.
func (b *sqlBench) slice(ctx context.Context, c *SQLCase) (lag time.Duration, err error) {
	if err = b.exec(ctx, emptyTables); err != nil {
		return 0, err
	}
	before, err := b.cpu.total()
	o, runErr := b.pgbench.run(ctx, c.script, b.cfg.Warmup, b.cfg.Slice)
	if runErr != nil {
		return 0, runErr
	}
	c.Rates = append(c.Rates, o.rate)
	if c.Name == publishing {
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

// Print writes the report for people.
func (r *SQLReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "\nsql: %d writers, PostgreSQL %s, medians of %d rounds of %.3g s, %d CPUs; a replica drains meanwhile\n",
		r.Writers, r.Server, r.Rounds, r.Seconds, r.CPUs)
	for _, d := range r.Disks {
		fmt.Fprintf(w, "\ndisk: %s\n", d.Disk)
		for _, c := range d.Cases {
			fmt.Fprintf(w, "  %s  %-32s %8.0f transactions/s %6.0f µs CPU each\n", c.Name, c.What, c.Rate, c.CPU)
		}
		fmt.Fprintf(w, "  c/b %.2f (aim: 0.80)   c/a %.2f (aim: 0.45)   d/a %.2f   b/a %.2f   by CPU time: c/b %.2f   c/a %.2f\n",
			d.Ratios["c/b"], d.Ratios["c/a"], d.Ratios["d/a"], d.Ratios["b/a"], d.ByCPU["c/b"], d.ByCPU["c/a"])
		fmt.Fprintf(w, "  all %d published messages were received, once and in order; the last at most %.0f ms after its slice\n", d.Published, d.LagMS)
	}
	return nil
}
