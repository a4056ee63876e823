package e2e

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A soak is told by the environment how long it lasts (FORGEWIRE_SOAK_TIME; without it, it is left out), how much
// faster than in a chaos run its load works (FORGEWIRE_SOAK_SPEED), and where its curves go (FORGEWIRE_SOAK_SVG, and
// the figures behind them beside it as .csv).

// Nothing breaks, everybody works for long, the log turns over many times: what the replicas and PostgreSQL hold then
// does not grow.
func TestSoak(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("FORGEWIRE_SOAK_TIME"))
	if err != nil {
		t.Skip("make soak runs it")
	}
	w := newChaos(t, 1, chaosOptions{plain: true, env: []string{"FORGEWIRE_RETENTION_BYTES=16777216", "FORGEWIRE_RETENTION_AGE=1m"}})
	if w.load.speed, err = strconv.ParseFloat(os.Getenv("FORGEWIRE_SOAK_SPEED"), 64); err != nil {
		w.load.speed = 1
	}
	w.newCrowd()
	w.load.start()
	w.recovered()
	s := &soaked{w: w, begin: time.Now()}
	every := time.NewTicker(max(time.Second, lasts/200))
	defer every.Stop()
	for time.Since(s.begin) < lasts {
		<-every.C
		s.sample()
		for _, x := range w.crowd { // what they saw is not what this is about
			x.forget(0)
		}
		w.book.forget()
	}
	w.recovered()
	w.load.stop()
	s.write(os.Getenv("FORGEWIRE_SOAK_SVG"))
	s.flat()
}

// forget drops what was noted.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
	clear(l.why)
}

// soaked is what a soak measured: a column a name, a row a moment.
type soaked struct {
	w     *chaos
	begin time.Time
	at    []float64 // minutes
	names []string
	rows  map[string][]float64
}

func (s *soaked) put(name string, v float64) {
	if s.rows == nil {
		s.rows = map[string][]float64{}
	}
	if _, known := s.rows[name]; !known {
		s.names = append(s.names, name)
	}
	s.rows[name] = append(s.rows[name], v)
}

// soakQueries are what is asked of PostgreSQL, by curve.
var soakQueries = []struct{ name, sql string }{
	{"database, MB", "SELECT pg_database_size(current_database()) / 1e6"},
	{"log, MB", "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::float8 / 1e6 FROM pg_inherits WHERE inhparent = 'forgewire.messages'::regclass"},
	{"log, partitions", "SELECT count(*)::float8 FROM pg_inherits WHERE inhparent = 'forgewire.messages'::regclass"},
	{"outbox, MB", "SELECT pg_total_relation_size('forgewire.outbox')::float8 / 1e6"},
	{"small tables (presence, flights, meters, keys), MB", `SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::float8 / 1e6 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'forgewire' AND c.relkind = 'r' AND c.relname ~ '^(presence|replicas|hidden|flights|flight_owners|meters|published_keys|occup)'`},
	{"dead rows, thousands", "SELECT coalesce(sum(n_dead_tup), 0)::float8 / 1e3 FROM pg_stat_user_tables WHERE schemaname = 'forgewire'"},
	{"PostgreSQL, connections", "SELECT count(*)::float8 FROM pg_stat_activity WHERE datname = current_database()"},
}

// soakMetrics are what is asked of the replicas, by curve.
var soakMetrics = []struct {
	name, metric string
	scale        float64
}{
	{"memory, MB", "process_resident_memory_bytes", 1e6},
	{"heap, MB", "go_memstats_heap_inuse_bytes", 1e6},
	{"goroutines", "go_goroutines", 1},
	{"files", "process_open_fds", 1},
}

// sample takes one row.
func (s *soaked) sample() {
	t := s.w.t
	t.Helper()
	s.at = append(s.at, time.Since(s.begin).Minutes())
	for i, r := range s.w.replicas {
		text := metricsOf(t, r)
		for _, m := range soakMetrics {
			s.put(fmt.Sprintf("replica %c: %s", 'A'+i, m.name), metric(t, text, m.metric)/m.scale)
		}
	}
	for _, q := range soakQueries {
		v, err := tryQuery[float64](s.w.url, q.sql)
		if err != nil {
			t.Fatalf("%s: %v", q.name, err)
		}
		s.put(q.name, v)
	}
	done := &s.w.tally
	s.put("done: publishes", float64(done.published.Load()))
	s.put("done: answers", float64(done.answered.Load()))
	s.put("done: writes", float64(done.written.Load()))
	s.put("failed", float64(done.publishFailed.Load()+done.answerFailed.Load()))
}

func metricsOf(t testing.TB, r *replica) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", apiKey)
	res, err := apiClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b strings.Builder
	if _, err = bufio.NewReader(res.Body).WriteTo(&b); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s's metrics: %s, %v", r.name, res.Status, err)
	}
	return b.String()
}

func metric(t testing.TB, text, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no metric %s", name)
	}
	v, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// flat demands of each curve that its last quarter is not above its second one by more than what it swings by. In the
// first one everything still fills: pools, caches, the log up to its bound.
func (s *soaked) flat() {
	n := len(s.at)
	if n < 20 {
		s.w.t.Logf("%d samples are too few to say whether anything grows", n)
		return
	}
	for _, name := range s.names {
		if strings.HasPrefix(name, "done") || strings.HasPrefix(name, "failed") || name == "database, MB" { // runs are kept for a month
			continue
		}
		early, late := mean(s.rows[name][n/4:n/2]), mean(s.rows[name][3*n/4:])
		s.w.t.Logf("%-60s %10.2f, then %10.2f", name, early, late)
		if late > early*1.25+3 {
			s.w.t.Errorf("%s grows: %.1f, then %.1f", name, early, late)
		}
	}
}

func mean(of []float64) (m float64) {
	for _, v := range of {
		m += v / float64(len(of))
	}
	return m
}

// write writes the curves, and the figures behind them.
func (s *soaked) write(path string) {
	t := s.w.t
	t.Helper()
	if path == "" {
		return
	}
	if err := os.WriteFile(path, []byte(s.svg()), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(strings.TrimSuffix(path, ".svg") + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := csv.NewWriter(file)
	_ = out.Write(append([]string{"minutes"}, s.names...)) // Flush tells
	for i, at := range s.at {
		row := []string{fmt.Sprintf("%.2f", at)}
		for _, name := range s.names {
			row = append(row, fmt.Sprintf("%.3f", s.rows[name][i]))
		}
		_ = out.Write(row) // Flush tells
	}
	if out.Flush(); out.Error() != nil {
		t.Fatal(out.Error())
	}
}

// svg draws each kind of curve in a box of its own; the replicas' are in one.
func (s *soaked) svg() string {
	const wide, high, gap, columns = 360, 150, 60, 3
	var boxes [][]string
	at := map[string]int{}
	for _, name := range s.names {
		_, title, ofReplica := strings.Cut(name, ": ")
		if !ofReplica || strings.HasPrefix(name, "done") {
			title = name
		}
		if _, known := at[title]; !known {
			at[title] = len(boxes)
			boxes = append(boxes, nil)
		}
		boxes[at[title]] = append(boxes[at[title]], name)
	}
	titles := make([]string, len(boxes))
	for title, i := range at {
		titles[i] = title
	}
	lines := (len(boxes) + columns - 1) / columns
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", columns*(wide+gap)+gap, lines*(high+gap)+gap)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	last := s.at[len(s.at)-1]
	for i, names := range boxes {
		x, y := gap+i%columns*(wide+gap), gap+i/columns*(high+gap)
		most := 0.0
		for _, name := range names {
			for _, v := range s.rows[name] {
				most = max(most, v)
			}
		}
		most = max(most*1.1, 1)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><text x="%d" y="%d" text-anchor="end">%.4g</text><text x="%d" y="%d" text-anchor="end">0</text><text x="%d" y="%d" text-anchor="end">%.0f min</text>`+"\n",
			x, y-6, titles[i], x-4, y+10, most, x-4, y+high, x+wide, y+high+14, last)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/>`+"\n", x, y, wide, high)
		for n, name := range names {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.2" points="`, []string{"#1f77b4", "#d62728", "#2ca02c"}[n%3])
			for k, v := range s.rows[name] {
				fmt.Fprintf(&b, "%.1f,%.1f ", float64(x)+s.at[k]/last*wide, float64(y)+high-v/most*high)
			}
			b.WriteString(`"/>` + "\n")
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
