package tracing

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// record is a tracer whose spans stay here.
func record(t *testing.T) (*Tracing, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	p := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return started(p), spans
}

func get(t *testing.T, client *http.Client, url, traceparent string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if traceparent != "" {
		req.Header.Set("Traceparent", traceparent)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// A request's span has the route's name and nothing of its path; calls to others are in the same trace.
func TestRequests(t *testing.T) {
	tr, spans := record(t)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Traceparent"), "4bf92f3577b34da6a3ce929d0e0e4736") {
			t.Errorf("upstream is told of %q", r.Header.Get("Traceparent"))
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer upstream.Close()
	client := &http.Client{Transport: tr.Transport(http.DefaultTransport)}
	r := chi.NewRouter()
	r.Use(tr.Middleware)
	r.Get("/v1/things/{id}", func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, upstream.URL+"/secret-path?key=secret", nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		w.WriteHeader(http.StatusTeapot)
	})
	srv := httptest.NewServer(r)
	defer srv.Close()
	get(t, srv.Client(), srv.URL+"/v1/things/secret-id?token=secret", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	all := spans.GetSpans()
	if len(all) != 2 {
		t.Fatalf("%d spans", len(all))
	}
	out, in := all[0], all[1]
	if in.Name != "GET /v1/things/{id}" || in.SpanKind != trace.SpanKindServer || in.SpanContext.TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" || in.Parent.SpanID().String() != "00f067aa0ba902b7" {
		t.Errorf("%+v", in)
	}
	if out.SpanKind != trace.SpanKindClient || out.Parent.SpanID() != in.SpanContext.SpanID() || out.Status.Code != codes.Error {
		t.Errorf("%+v", out)
	}
	for _, s := range all {
		for _, a := range s.Attributes {
			if strings.Contains(a.Value.String(), "secret") {
				t.Errorf("%s holds %s", s.Name, a.Value.String())
			}
		}
	}
}

// What is off changes nothing and costs nothing.
func TestOff(t *testing.T) {
	var off *Tracing
	next := http.NotFoundHandler()
	if off.Pgx() != nil || off.Transport(http.DefaultTransport) != http.DefaultTransport || off.Stop(t.Context()) != nil {
		t.Error("it does something")
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	h := off.Middleware(next)
	if n := testing.AllocsPerRun(100, func() { _ = trace.SpanFromContext(r.Context()).IsRecording() }); n != 0 {
		t.Errorf("asking whether there is a trace allocates %v times", n)
	}
	if h.ServeHTTP(w, r); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

// The standard variables say where to; what was traced is there when Stop returns.
func TestExport(t *testing.T) {
	received := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		received <- r.URL.Path + " " + r.Header.Get("X-Team") + " " + string(b)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=edge")
	t.Setenv("OTEL_SERVICE_NAME", "shop")
	tr, err := Start(t.Context(), Config{Logger: slog.New(slog.DiscardHandler), Version: "v1", Replica: "one"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(tr.Middleware(http.NotFoundHandler()))
	defer srv.Close()
	get(t, srv.Client(), srv.URL, "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err = tr.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-received:
		if !strings.HasPrefix(got, "/v1/traces edge ") || !strings.Contains(got, "shop") || strings.Contains(got, "forgewire\n") {
			t.Errorf("%q", got)
		}
	default:
		t.Error("nothing was sent")
	}
}
