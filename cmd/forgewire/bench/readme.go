package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Marks in a document between which Markdown writes.
const (
	figuresBegin = "<!-- figures: make bench-table writes this from docs/bench.json -->"
	figuresEnd   = "<!-- end of figures -->"
)

var errNoMarks = errors.New("the marks for the figures are not in it")

// WriteBetween puts text between the marks of a document.
func WriteBetween(file, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the document: %w", err)
	}
	begin, end := bytes.Index(b, []byte(figuresBegin)), bytes.Index(b, []byte(figuresEnd))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s: %w", file, errNoMarks)
	}
	out := append([]byte{}, b[:begin+len(figuresBegin)]...)
	out = append(append(out, "\n"+text...), b[end:]...)
	if err = os.WriteFile(file, out, 0o644); err != nil { //nolint:gosec // the caller names the document
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// lookup reads figures of a report, and keeps what it did not find.
type lookup struct {
	report *Report
	lacks  []error
}

func (l *lookup) row(bench, table, row string) *Row {
	if r := l.report.Result(bench); r != nil {
		if t := r.table(table); t != nil && t.row(row) != nil {
			return t.row(row)
		}
	}
	l.lacks = append(l.lacks, fmt.Errorf("the report has no %s, %s, %s", bench, table, row))
	return &Row{}
}

func (l *lookup) value(bench, table, row, figure string) float64 {
	r := l.row(bench, table, row)
	if f := r.figure(figure); f != nil {
		return f.Value
	}
	if len(r.Figures) > 0 || len(r.Times) > 0 {
		l.lacks = append(l.lacks, fmt.Errorf("the report has no %s of %s, %s, %s", figure, bench, table, row))
	}
	return 0
}

func (l *lookup) times(bench, table, row, name string) Times {
	r := l.row(bench, table, row)
	if t := r.times(name); t != nil {
		return *t
	}
	if len(r.Figures) > 0 || len(r.Times) > 0 {
		l.lacks = append(l.lacks, fmt.Errorf("the report has no %s of %s, %s, %s", name, bench, table, row))
	}
	return Times{}
}

// three rounds to three digits.
func three(v float64) string {
	for scale := 1.0; ; scale *= 10 {
		if v < 1000*scale {
			if scale == 1 {
				return Number(v)
			}
			return Number(float64(int64(v/scale+0.5)) * scale)
		}
	}
}

// Markdown is the README's figures.
func (r *Report) Markdown() (string, error) {
	l := &lookup{report: r}
	var b strings.Builder
	fmt.Fprintf(&b, "\n`%s` on %s. The servers, what they are compared with and the load share this machine (fsync on): trust the ratios.\n"+
		"[docs/bench.md](docs/bench.md) says how to run and to read it, [docs/bench.json](docs/bench.json) is the report.\n", r.Command, r.Machine)
	for _, section := range []func(*strings.Builder, *lookup){markdownFanout, markdownSQL, markdownCrowd, markdownLLM, markdownHTTP, markdownMixed} {
		section(&b, l)
	}
	b.WriteByte('\n')
	return b.String(), errors.Join(l.lacks...)
}

func markdownFanout(b *strings.Builder, l *lookup) {
	one, many := publishersNamed(1), publishersNamed(64)
	fmt.Fprint(b, "\nPush: two replicas, 150-byte messages, publish over HTTP to receive over WebSocket; the floor is the same appends and NOTIFYs without either, in the\nsame run:\n\n")
	fmt.Fprint(b, "| publishers | floor | Forgewire | ratio |\n|---|---|---|---|\n")
	fmt.Fprintf(b, "| 1, p50 | %s ms | %s ms | %.1f |\n", three(l.times("fanout", fanoutLoad, one+", floor", receive).P50), three(l.times("fanout", fanoutLoad, one, receive).P50),
		l.value("fanout", fanoutBeside, one, receive+" p50"))
	fmt.Fprintf(b, "| 64, rate | %s/s | %s/s | %.2f |\n", three(l.value("fanout", fanoutLoad, many+", floor", acked)), three(l.value("fanout", fanoutLoad, many, acked)),
		l.value("fanout", fanoutBeside, many, acked))
	open := l.times("fanout", fanoutOpen, "2,000/s", receive)
	fmt.Fprintf(b, "\nAt 2,000 messages a second, open loop, p50 is %s ms and p99 %s ms. An idle replica takes %s %% of a core.\n", three(open.P50), three(open.P99),
		three(l.value("fanout", fanoutIdle, "replica 1", "CPU")))
}

func markdownSQL(b *strings.Builder, l *lookup) {
	fmt.Fprint(b, "\nFrom SQL: 32 writers, a business insert in each transaction, while a replica drains and a subscriber receives everything:\n\n")
	fmt.Fprintf(b, "| transactions/s | %s | %s |\n|---|---|---|\n", diskAsItIs, diskSlow)
	for _, c := range []string{sqlAlone, sqlSecond, sqlPublish, sqlNotify} {
		fmt.Fprintf(b, "| %s | %s | %s |\n", strings.Replace(c, "forgewire.publish", "`forgewire.publish`", 1), three(l.value("sql", diskAsItIs, c, transactions)), three(l.value("sql", diskSlow, c, transactions)))
	}
}

func markdownCrowd(b *strings.Builder, l *lookup) {
	fmt.Fprint(b, "\nThousands of clients, beside the centrifuge library v0.40 with its memory engine:\n\n| | Forgewire | centrifuge | ratio |\n|---|---|---|---|\n")
	row := func(what, bench, table, suffix, ratioRow, figure, unit string) {
		fmt.Fprintf(b, "| %s | %s%s | %s%s | %.2f |\n", what, three(l.value(bench, table, forgewire+suffix, figure)), unit, three(l.value(bench, table, centrifuge+suffix, figure)), unit,
			l.value(bench, besidePeer, ratioRow, figure))
	}
	row("memory of a connection, of 10,000", "connections", connectionsHeld, ", 10,000", "10,000", memoryEach, " KB")
	row("memory of a connection, of 19,000", "connections", connectionsHeld, ", 19,000", "19,000", memoryEach, " KB")
	row("handshakes/s until subscribed, 10,000 to a new process", "connections", connectionsHeld, ", 10,000", "10,000", firstHandshakes, "")
	row("the same when as many had come and gone", "connections", connectionsHeld, ", 10,000", "10,000", handshakes, "")
	row("CPU of 10,000 idle connections", "connections", connectionsHeld, ", 10,000", "10,000", idleCPU, " %")
	row("broadcast of 128 bytes to 10,000, deliveries/s", "broadcast", broadcastTable, "", "ratio", singly, "")
	row("the same, 100 at once", "broadcast", broadcastTable, "", "ratio", backlogged, "")
	row("resume, 1,000 clients with 1,000 missed each, messages/s", "resume", resumeTable, "", "ratio", messages, "")
}

func markdownLLM(b *strings.Builder, l *lookup) {
	mix := func(arm, figure string) float64 { return l.value("llm", mixTable("mix"), arm, figure) }
	fmt.Fprintf(b, "\nComplete: a seeded mix of 4,000 requests in 20 s, tuned to what such a cache is for ([docs/complete.md](docs/complete.md#measured) says what is in it, and has\n"+
		"the plain mixes, which gain far less). A naive exact cache hits %.1f %% and cuts the wait by %.0f %%; Forgewire hits or joins %.1f %% and cuts it by\n%.0f %%.",
		mix(naiveCached, hitOrJoined), mix(naiveCached, waitCut), mix(forgewire, hitOrJoined), mix(forgewire, waitCut))
	fmt.Fprintf(b, " A local hit takes %s ms, a miss adds %s ms.\n", three(l.times("llm", llmSingle, "hit, local", answer).P50), three(l.value("llm", llmAdded, "a miss, beside the model", "p50")))
}

func markdownHTTP(b *strings.Builder, l *lookup) {
	beside := func(row string) float64 { return l.value("http", httpBeside, row, "rate") }
	fmt.Fprintf(b, "\nServe: one replica beside a bare `net/http` and pgx handler, open loop, at saturation. A cached read has %.2f of the rate of constant bytes (%s/s), an\n"+
		"uncached one %.2f of a bare SELECT and %.2f of the same SELECT under row-level security.\n", beside("cached read"),
		three(l.value("http", httpSaturated, "cached read, "+forgewire, answered)), beside("uncached read"), beside("uncached read beside the same protection"))
}

func markdownMixed(b *strings.Builder, l *lookup) {
	fmt.Fprint(b, "\nEverything at once, open loop, each time from when a thing was due:\n\n| | /s | p50 | p99 | success |\n|---|---|---|---|---|\n")
	for _, name := range []string{actHTTP, actSQL, actReceive + ", from HTTP", actLLM, actCached, actUncached, actWrite} {
		r := l.row("mixed", mixedTable, name)
		t := l.times("mixed", mixedTable, name, mixedTime)
		fmt.Fprintf(b, "| %s | %s | %s ms | %s ms | %s |\n", name, three(l.value("mixed", mixedTable, name, "done")), three(t.P50), three(t.P99), r.Tally.success())
	}
	fmt.Fprint(b, "\nLLM clients wait for a model that takes up to 1.2 s.\n")
}
