// Package tracing sends OpenTelemetry traces, where the standard OTEL_ variables ask for it: requests, their
// queries, what is published until it is delivered, and calls to other servers. Without those variables there is
// no tracer at all, and nothing costs anything: a nil *Tracing is one that is off.
//
//	t, err := tracing.Start(ctx, tracing.Config{…})
//	defer t.Stop(ctx)
//	handler = t.Middleware(router)
//	pool.Tracer = t.Pgx()
//	client.Transport = t.Transport(http.DefaultTransport)
//
// Whoever wants a span of its own asks the one in its context: trace.SpanFromContext(ctx).TracerProvider().
// Spans hold route patterns and SQL without its parameters, and no path, query, header or body.
package tracing
