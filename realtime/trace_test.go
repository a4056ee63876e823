package realtime

import (
	"context"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"forgewire/db/dbtest"
)

// A traced publish shows when it was committed, and when it was back and on its way to the clients.
func TestTracedPublish(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	defer provider.Shutdown(context.Background()) //nolint:errcheck // the test is over
	r := newTestReplica(t, dbtest.New(t), nil)
	for i := range 20 {
		ctx, root := provider.Tracer("test").Start(t.Context(), "request")
		if _, err := r.node.Publish(ctx, message("room:1", i)); err != nil {
			t.Fatal(err)
		}
		root.End()
	}
	if _, err := r.node.Publish(t.Context(), message("room:1", 20)); err != nil { // in no trace
		t.Fatal(err)
	}
	count := func(name string) (n int) {
		for _, s := range spans.GetSpans() {
			if s.Name == name && s.EndTime.After(s.StartTime) {
				n++
			}
		}
		return n
	}
	eventually(t, 10*time.Second, "all are delivered", func() bool { return count("deliver") == 20 })
	if n := count("publish"); n != 20 {
		t.Errorf("%d were published", n)
	}
	byID := map[string]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		byID[s.SpanContext.SpanID().String()] = s
	}
	for _, s := range byID {
		if s.Name == "deliver" && byID[s.Parent.SpanID().String()].Name != "publish" {
			t.Errorf("a delivery belongs to %q", byID[s.Parent.SpanID().String()].Name)
		}
	}
	if n := r.node.hub.in[0].arrivals.returns.count.Load(); n != 0 {
		t.Errorf("%d are waited for", n)
	}
}
