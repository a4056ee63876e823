package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const scope = "forgewire"

// Config says who traces. Where to, how many and with which headers is read from the standard OTEL_ variables by
// the exporter and the SDK themselves.
type Config struct {
	Logger  *slog.Logger
	Version string
	Replica string
}

// Tracing is a tracer and its way out. A nil one is off.
type Tracing struct {
	provider   *sdk.TracerProvider
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
}

// Start makes the exporter, which sends over HTTP (OTLP, protobuf), in batches and in the background. What cannot
// be sent is dropped. Stop sends the rest.
func Start(ctx context.Context, cfg Config) (*Tracing, error) {
	if cfg.Logger == nil {
		return nil, errors.New("tracing: Logger is required")
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the trace exporter: %w", err)
	}
	// The SDK has one handler for the process: it tells of traces that could not be sent.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { cfg.Logger.Debug("traces could not be sent", "error", err) }))
	// The variables come last: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count more than what is here.
	res, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "forgewire"), attribute.String("service.version", cfg.Version),
		attribute.String("service.instance.id", cfg.Replica)), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return started(sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(res))), nil
}

func started(p *sdk.TracerProvider) *Tracing {
	return &Tracing{provider: p, tracer: p.Tracer(scope),
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})}
}

// Stop sends what is left, until ctx ends.
func (t *Tracing) Stop(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// Pgx returns a tracer of queries that are part of a traced request, or nil.
func (t *Tracing) Pgx() pgx.QueryTracer {
	if t == nil {
		return nil
	}
	return otelpgx.NewTracer(otelpgx.WithTracerProvider(t.provider), otelpgx.WithDisableConnectionDetailsInAttributes())
}
