package logging

import (
	"context"
	"log/slog"
)

// Handler adds the request id of the context to each record, at the top level
// of the line even inside a group, where whoever searches expects it.
type Handler struct {
	// inner has the groups and attributes that were opened so far. Where a
	// group is open, root is the handler before the first one and steps what
	// came after, to be repeated behind the id.
	inner slog.Handler
	root  slog.Handler
	steps []step
}

// step is one call of WithGroup or WithAttrs.
type step struct {
	group string
	attrs []slog.Attr
}

// NewHandler wraps inner.
func NewHandler(inner slog.Handler) *Handler { return &Handler{inner: inner} }

// Enabled asks the wrapped handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

// Handle adds the id and passes the record on.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	id := RequestIDFrom(ctx)
	if id == "" {
		return h.inner.Handle(ctx, r)
	}
	attr := slog.String(RequestID, id)
	if h.root == nil {
		r = r.Clone() // the caller's record must not change
		r.AddAttrs(attr)
		return h.inner.Handle(ctx, r)
	}
	inner := h.root.WithAttrs([]slog.Attr{attr})
	for _, s := range h.steps {
		inner = s.apply(inner)
	}
	return inner.Handle(ctx, r)
}

// WithAttrs returns a handler whose records also have attrs.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	return h.with(step{attrs: attrs})
}

// WithGroup returns a handler that puts what follows into a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(step{group: name})
}

func (h *Handler) with(s step) *Handler {
	next := &Handler{inner: s.apply(h.inner), root: h.root}
	if h.root == nil && s.group != "" {
		next.root = h.inner
	}
	if next.root != nil {
		next.steps = append(h.steps[:len(h.steps):len(h.steps)], s)
	}
	return next
}

func (s step) apply(h slog.Handler) slog.Handler {
	if s.group != "" {
		return h.WithGroup(s.group)
	}
	return h.WithAttrs(s.attrs)
}
