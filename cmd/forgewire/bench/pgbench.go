package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"forgewire/infra/devstack"
)

// pgbench runs PostgreSQL's own load generator.
type pgbench struct {
	dir      string // of the scripts, open to the account that pgbench runs as
	database string
	password string
	writers  int
}

func newPgbench(ctx context.Context, database string, writers int) (*pgbench, error) {
	if _, err := devstack.Command(ctx, "pgbench"); err != nil {
		return nil, fmt.Errorf("this benchmark needs pgbench: %w", err)
	}
	b := &pgbench{database: database, writers: writers}
	if u, err := url.Parse(database); err == nil && u.User != nil {
		// A command line can be read by everybody, an environment cannot.
		b.password, _ = u.User.Password()
		u.User = url.User(u.User.Username())
		b.database = u.String()
	}
	var err error
	b.dir, err = devstack.MkdirTemp("", "forgewire-bench-")
	return b, err
}

func (b *pgbench) close() error { return os.RemoveAll(b.dir) }

// pgbenchSums is what pgbench says of one run.
type pgbenchSums struct {
	committed int
	rate      float64 // transactions a second, after the warm-up
}

// Lines of pgbench's: one each second, and the sums at the end.
var (
	progressLine  = regexp.MustCompile(`(?m)^progress: ([0-9.]+) s, ([0-9.]+) tps`)
	committedLine = regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`)
	rateLine      = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \((?:without|excluding)`)
)

// run runs a script for whole seconds, of which those of the warm-up do not count: a new session has its
// statements to prepare and its functions to compile, which one of a pool did long ago.
func (b *pgbench) run(ctx context.Context, script string, warmup, duration time.Duration) (pgbenchSums, error) {
	file := filepath.Join(b.dir, "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		return pgbenchSums{}, fmt.Errorf("write pgbench's script: %w", err)
	}
	seconds := int(max((warmup+duration+time.Second-1).Truncate(time.Second), time.Second) / time.Second)
	cmd, err := devstack.Command(ctx, "pgbench", "-n", "-M", "prepared", "-P", "1", "-f", file,
		"-c", strconv.Itoa(b.writers), "-j", strconv.Itoa(min(b.writers, runtime.NumCPU())), "-T", strconv.Itoa(seconds), b.database)
	if err != nil {
		return pgbenchSums{}, err
	}
	if b.password != "" {
		cmd.Env = append(cmd.Environ(), "PGPASSWORD="+b.password)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = cmd.Run(); err != nil {
		text := out.Bytes()
		return pgbenchSums{}, fmt.Errorf("run pgbench: %w: %s", err, text[max(0, len(text)-500):])
	}
	return parsePgbench(out.Bytes(), warmup)
}

var errPgbench = errors.New("pgbench's output is not what was expected")

func parsePgbench(text []byte, warmup time.Duration) (o pgbenchSums, err error) {
	committed, rate := committedLine.FindSubmatch(text), rateLine.FindSubmatch(text)
	if committed == nil || rate == nil {
		return o, errPgbench
	}
	if o.committed, err = strconv.Atoi(string(committed[1])); err != nil {
		return o, errPgbench
	}
	if o.rate, err = strconv.ParseFloat(string(rate[1]), 64); err != nil {
		return o, errPgbench
	}
	if warmup == 0 {
		return o, nil
	}
	begin, last, done := warmup.Seconds(), 0.0, 0.0
	for _, line := range progressLine.FindAllSubmatch(text, -1) {
		at, err1 := strconv.ParseFloat(string(line[1]), 64)
		tps, err2 := strconv.ParseFloat(string(line[2]), 64)
		if err1 != nil || err2 != nil {
			return o, errPgbench
		}
		if at < begin+0.5 {
			last = at // the end of the warm-up, to a fraction of a second
			begin = max(begin, at)
			continue
		}
		done += tps * (at - last)
		last = at
	}
	if done > 0 {
		o.rate = done / (last - begin)
	}
	return o, nil
}
