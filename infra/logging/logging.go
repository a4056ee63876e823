package logging

import (
	"context"
	"io"
	"log/slog"
)

// Keys that mean the same thing in every line.
const (
	RequestID = "request_id"
	Replica   = "replica"
	Channel   = "channel"
	Client    = "client"
	Error     = "error"
)

// Formats of a line.
const (
	JSON = "json"
	Text = "text"
)

// New returns a logger that writes lines of at least level to w, as JSON unless
// format is [Text]. Times are in UTC, so that lines of replicas in several
// places sort together.
func New(w io.Writer, level slog.Level, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: utc}
	if format == Text {
		return slog.New(NewHandler(slog.NewTextHandler(w, opts)))
	}
	return slog.New(NewHandler(slog.NewJSONHandler(w, opts)))
}

func utc(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	}
	return a
}

type requestIDKey struct{}

// WithRequestID returns a context whose log lines carry id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestIDFrom returns the id that [WithRequestID] put there, or "".
func RequestIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
