package realtime

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// maxReturns bounds the traced publishes that wait to come back; more are not traced to their end.
const maxReturns = 64

// publishTraced publishes as a part of a trace, which has two spans of it: "publish" until it is committed and
// "deliver" until this replica's listener brought it back and handed it to the hub. Both begin together: a
// notification may well arrive before the commit's own reply.
func (s *strand) publishTraced(ctx context.Context, messages []Message) ([]Message, error) {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer("forgewire/realtime")
	ctx, publish := tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.Int("messages", len(messages))))
	defer publish.End()
	began := time.Now()
	sent, err := s.publisher.Publish(ctx, messages...)
	if err != nil || sent[len(sent)-1].Offset == 0 { // an ephemeral one has no number to know it by
		return sent, err
	}
	offset := sent[len(sent)-1].Offset
	_, deliver := tracer.Start(ctx, "deliver", trace.WithTimestamp(began), trace.WithAttributes(attribute.Int64("offset", int64(offset))))
	s.in.arrivals.returns.wait(&s.in.arrivals, offset, deliver)
	return sent, nil
}

// returns are the spans of publishes that are not back yet. The zero value is empty.
type returns struct {
	count atomic.Int32 // so that what is not traced costs one load

	mu   sync.Mutex
	open []returning
}

// traced says whether a span is being recorded.
func traced(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

type returning struct {
	offset uint64
	span   trace.Span
}

// wait ends span when offset arrives. It may have arrived already.
func (d *returns) wait(a *arrivals, offset uint64, span trace.Span) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.open) >= maxReturns {
		return // the span is dropped, since it never ends
	}
	d.open = append(d.open, returning{offset, span})
	d.count.Store(int32(len(d.open)))
	if at := a.at.Load(); at >= offset { // after it is in the list: whoever delivers looks there too
		d.end(at, time.Unix(0, a.last.Load()))
	}
}

// delivered ends the spans of all up to offset.
func (d *returns) delivered(offset uint64) {
	if d.count.Load() == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end(offset, time.Now())
}

func (d *returns) end(offset uint64, at time.Time) {
	left := d.open[:0]
	for _, o := range d.open {
		if o.offset > offset {
			left = append(left, o)
			continue
		}
		o.span.End(trace.WithTimestamp(at))
	}
	clear(d.open[len(left):])
	d.open = left
	d.count.Store(int32(len(left)))
}
