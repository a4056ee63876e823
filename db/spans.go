package db

import (
	"context"

	"github.com/jackc/pgx/v5"

	"forgewire/infra/monitor"
)

// Beside the waiting, the gate measures for package monitor what a request's queries take: from when one is
// sent until its last row was read.

// queryContext carries the timer of one query, batch or copy.
type queryContext struct {
	context.Context
	timer monitor.Timer
}

type queryKey struct{}

func (q *queryContext) Value(key any) any {
	if key == (queryKey{}) {
		return q
	}
	return q.Context.Value(key)
}

func startQuery(ctx context.Context) context.Context {
	if t := monitor.Span(ctx, monitor.Query); t.Active() {
		return &queryContext{ctx, t}
	}
	return ctx
}

func endQuery(ctx context.Context) {
	if q, ok := ctx.Value(queryKey{}).(*queryContext); ok {
		q.timer.End()
	}
}

// TraceQueryStart begins to measure a query.
func (g *gate) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return startQuery(ctx)
}

// TraceQueryEnd ends it.
func (g *gate) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	endQuery(ctx)
}

// TraceBatchStart begins to measure a batch.
func (g *gate) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return startQuery(ctx)
}

// TraceBatchQuery has nothing to add.
func (g *gate) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd ends it.
func (g *gate) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	endQuery(ctx)
}

// TraceCopyFromStart begins to measure a copy.
func (g *gate) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return startQuery(ctx)
}

// TraceCopyFromEnd ends it.
func (g *gate) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromEndData) {
	endQuery(ctx)
}
