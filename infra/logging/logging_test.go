package logging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"forgewire/infra/logging"
)

func line(t *testing.T, b *bytes.Buffer) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	b.Reset()
	return m
}

func TestNewJSON(t *testing.T) {
	var b bytes.Buffer
	log := logging.New(&b, slog.LevelInfo, logging.JSON)
	log.Debug("unseen")
	if b.Len() > 0 {
		t.Fatalf("debug line at level info: %s", &b)
	}
	log.Info("published", logging.Channel, "room:1")
	m := line(t, &b)
	if m["level"] != "INFO" || m["msg"] != "published" || m["channel"] != "room:1" {
		t.Errorf("line %v", m)
	}
	if at, _ := m["time"].(string); !strings.HasSuffix(at, "Z") {
		t.Errorf("time %q is not UTC", at)
	} else if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
		t.Error(err)
	}
	if _, there := m[logging.RequestID]; there {
		t.Error("a request id without a request")
	}
}

func TestNewText(t *testing.T) {
	var b bytes.Buffer
	log := logging.New(&b, slog.LevelWarn, logging.Text)
	log.Info("unseen")
	log.WarnContext(logging.WithRequestID(t.Context(), "r1"), "slow client")
	if got := b.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=WARN msg="slow client" request_id=r1`) {
		t.Errorf("text %q", got)
	}
}

func TestRequestID(t *testing.T) {
	ctx := logging.WithRequestID(t.Context(), "r1")
	if got := logging.RequestIDFrom(ctx); got != "r1" {
		t.Errorf("RequestIDFrom = %q", got)
	}
	if got := logging.RequestIDFrom(t.Context()); got != "" {
		t.Errorf("RequestIDFrom of a bare context = %q", got)
	}

	var b bytes.Buffer
	log := logging.New(&b, slog.LevelInfo, logging.JSON)
	for name, l := range map[string]*slog.Logger{
		"plain":              log,
		"attrs":              log.With("a", 1),
		"group":              log.WithGroup("g"),
		"attrs group attrs":  log.With("a", 1).WithGroup("g").With("b", 2),
		"group group":        log.WithGroup("g").WithGroup("h").With("c", 3),
		"empty group, attrs": log.WithGroup("").With(),
	} {
		l.InfoContext(ctx, "m", "k", "v")
		if m := line(t, &b); m[logging.RequestID] != "r1" {
			t.Errorf("%s: %v", name, m)
		}
		l.InfoContext(logging.WithRequestID(ctx, "r2"), "m")
		if m := line(t, &b); m[logging.RequestID] != "r2" {
			t.Errorf("%s: the innermost id counts: %v", name, m)
		}
	}

	log.With("a", 1).WithGroup("g").With("b", 2).InfoContext(ctx, "m", "k", "v")
	m := line(t, &b)
	g, _ := m["g"].(map[string]any)
	if m["a"] != 1.0 || g["b"] != 2.0 || g["k"] != "v" {
		t.Errorf("attributes moved: %v", m)
	}
}

// Two loggers made from one must not write into each other's attributes.
func TestHandlerBranches(t *testing.T) {
	var b bytes.Buffer
	ctx := logging.WithRequestID(t.Context(), "r1")
	base := logging.New(&b, slog.LevelInfo, logging.JSON).WithGroup("g").With("a", 1)
	one, two := base.With("who", "one"), base.With("who", "two")
	for name, l := range map[string]*slog.Logger{"one": one, "two": two} {
		l.InfoContext(ctx, "m")
		if g, _ := line(t, &b)["g"].(map[string]any); g["who"] != name {
			t.Errorf("%s: %v", name, g)
		}
	}
}

// Our handler keeps slog's own contract, with a request id and without.
func TestHandlerContract(t *testing.T) {
	for name, ctx := range map[string]context.Context{
		"without id": context.Background(),
		"with id":    logging.WithRequestID(context.Background(), "r1"),
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			slogtest.Run(t, func(*testing.T) slog.Handler {
				b.Reset()
				return withContext{logging.NewHandler(slog.NewJSONHandler(&b, nil)), ctx}
			}, func(t *testing.T) map[string]any {
				m := line(t, &b)
				delete(m, logging.RequestID)
				return m
			})
		})
	}
}

// withContext handles each record as if it were logged with ctx.
type withContext struct {
	slog.Handler
	ctx context.Context
}

func (w withContext) Handle(_ context.Context, r slog.Record) error {
	return w.Handler.Handle(w.ctx, r)
}

func (w withContext) WithAttrs(a []slog.Attr) slog.Handler {
	return withContext{w.Handler.WithAttrs(a), w.ctx}
}

func (w withContext) WithGroup(name string) slog.Handler {
	return withContext{w.Handler.WithGroup(name), w.ctx}
}

func BenchmarkRequestID(b *testing.B) {
	log := logging.New(discard{}, slog.LevelInfo, logging.JSON).With("replica", "a")
	ctx := logging.WithRequestID(b.Context(), "r1")
	b.ReportAllocs()
	for b.Loop() {
		log.InfoContext(ctx, "published", logging.Channel, "room:1")
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
