package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"

	"github.com/centrifugal/protocol"
)

// Names of the events that are no messages.
const (
	eventReset = "reset" // what was missed cannot be had: begin anew from here
	eventError = "error" // the subscription was refused
	eventEnd   = "end"   // the server ends the stream; EventSource comes back by itself
)

// endsStream is how the events format encodes that a subscription or a connection is over.
var endsStream = []byte("event: " + eventEnd + "\n")

// endsWith says whether b, which this format encoded, is the last that a stream brings, or nil.
func (f format) endsWith(b []byte) *Disconnect {
	if f == events && bytes.HasPrefix(b, endsStream) {
		return disconnectEnded
	}
	return nil
}

// encodeEvents is the events format: messages of one channel as plain server-sent events. A message's id is
// its position, which the browser sends back as Last-Event-ID; without an epoch it cannot be one.
func encodeEvents(epoch string, replies []*protocol.Reply) (b []byte) {
	for _, r := range replies {
		switch {
		case r.Error != nil:
			b = appendEvent(b, eventError, "", toJSON(refusal{Code: r.Error.Code, Message: r.Error.Message, Temporary: r.Error.Temporary}))
		case r.Subscribe != nil:
			b = appendSubscribed(b, r.Subscribe)
		case r.Push != nil:
			b = appendPush(b, epoch, r.Push)
		case r.Id == 0 && r.Connect == nil:
			b = append(b, ":\n\n"...) // a ping: a comment
		}
	}
	return b
}

// refusal is an Error as this format has it.
type refusal struct {
	Code      uint32 `json:"code"`
	Message   string `json:"message"`
	Temporary bool   `json:"temporary,omitempty"`
}

func appendPush(b []byte, epoch string, p *protocol.Push) []byte {
	switch {
	case p.Pub != nil:
		return appendEvent(b, "", eventID(epoch, p.Pub.Offset), p.Pub.Data)
	case p.Unsubscribe != nil:
		return appendEvent(b, eventEnd, "", toJSON(Disconnect{Code: uint16(p.Unsubscribe.Code), Reason: p.Unsubscribe.Reason}))
	case p.Disconnect != nil:
		return appendEvent(b, eventEnd, "", toJSON(Disconnect{Code: uint16(p.Disconnect.Code), Reason: p.Disconnect.Reason}))
	}
	return b // what else there is has no place among a channel's messages
}

// appendSubscribed begins a stream: with what was missed, or with the news that it cannot be had. An id alone
// is no event, but the browser keeps it.
func appendSubscribed(b []byte, s *protocol.SubscribeResult) []byte {
	if s.Recovered {
		for _, p := range s.Publications {
			b = appendEvent(b, "", eventID(s.Epoch, p.Offset), p.Data)
		}
		return b
	}
	if !s.Recoverable && s.WasRecovering {
		return appendEvent(b, eventReset, "", []byte("{}")) // nobody knows what was missed on such a channel
	}
	if !s.Recoverable {
		return b
	}
	id := eventID(s.Epoch, s.Offset)
	if s.WasRecovering {
		return appendEvent(b, eventReset, id, toJSON(struct {
			Position string `json:"position"`
		}{id}))
	}
	return append(append(append(b, "id: "...), id...), "\n\n"...)
}

// appendEvent adds one event. data is JSON without line breaks.
func appendEvent(b []byte, event, id string, data []byte) []byte {
	if event != "" {
		b = append(append(append(b, "event: "...), event...), '\n')
	}
	if id != "" {
		b = append(append(append(b, "id: "...), id...), '\n')
	}
	return append(append(append(b, "data: "...), data...), "\n\n"...)
}

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte("{}") // no value that comes here is one that JSON cannot hold
	}
	return b
}

// eventID is a position as an event's id: EPOCH-OFFSET. The offset alone would be taken for good after the
// database was replaced by another.
func eventID(epoch string, offset uint64) string {
	if epoch == "" || offset == 0 {
		return ""
	}
	return epoch + "-" + strconv.FormatUint(offset, 10)
}

func parseEventID(id string) (Position, bool) {
	i := strings.LastIndexByte(id, '-')
	if i <= 0 {
		return Position{}, false
	}
	offset, err := strconv.ParseUint(id[i+1:], 10, 63)
	return Position{Offset: offset, Epoch: id[:i]}, err == nil
}

// ServeEvents sends a channel's messages as plain server-sent events, for EventSource and curl. It goes on
// after Last-Event-ID or, without one, after the query's since. Whoever may subscribe may read.
func (n *Node) ServeEvents(w http.ResponseWriter, r *http.Request, channel string) {
	if !n.admitOrigin(w, r) {
		return
	}
	since, given, ok := eventsSince(r)
	if !ok {
		refuse(w, http.StatusBadRequest, ErrBadRequest.With("since is not an event's id"))
		return
	}
	n.serveStream(w, r, events, func(ctx context.Context, c *client) bool {
		if !c.obey(ctx, w, r, &protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{Token: bearer(r)}}) {
			return false
		}
		c.alone()
		c.sendReply(retry())
		return c.obey(ctx, w, r, &protocol.Command{Id: 2, Subscribe: &protocol.SubscribeRequest{
			Channel: channel, Recover: given, Offset: since.Offset, Epoch: since.Epoch}})
	})
}

// obey runs a command that the server itself makes of the request. If it is refused, the request is answered
// so, and obey returns false.
func (c *client) obey(ctx context.Context, w http.ResponseWriter, r *http.Request, cmd *protocol.Command) bool {
	d := c.handle(ctx, cmd)
	s := c.out.(*stream)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d == nil {
		d = s.why
	}
	if d != nil {
		refuseStream(w, r, events, statusOf(uint32(d.Code)), &Error{Code: uint32(d.Code), Message: d.Reason})
		return false
	}
	for _, b := range s.queue {
		data, isError := bytes.CutPrefix(b, []byte("event: "+eventError+"\ndata: "))
		if !isError {
			continue
		}
		var e refusal
		if err := json.Unmarshal(data, &e); err != nil {
			e = refusal(*ErrInternal)
		}
		status := statusOf(e.Code)
		if e.Temporary && status == http.StatusForbidden {
			status = http.StatusServiceUnavailable // a hook's own error
		}
		refuseStream(w, r, events, status, &Error{Code: e.Code, Message: e.Message})
		return false
	}
	return true
}

// alone drops what the connection began with: a stream begins with its channel.
func (c *client) alone() {
	s := c.out.(*stream)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.waiting = nil, 0
}

// retry spreads out, from 1 to 3 seconds, when EventSource comes back.
func retry() []byte { return fmt.Appendf(nil, "retry: %d\n\n", 1000+rand.IntN(2000)) }

// refuseStream answers a request that opens no stream. EventSource gives up for ever after an error, so what
// may go well soon is told to it as a stream that ends.
func refuseStream(w http.ResponseWriter, r *http.Request, f format, status int, e *Error) {
	soon := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
	if f != events || !soon || !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		refuse(w, status, e)
		return
	}
	w.Header().Set("Content-Type", contentTypes[events])
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(appendEvent(retry(), eventEnd, "", toJSON(e))) // a client that left needs no answer
}

// statusOf is the HTTP status of an error's or a disconnect's code. After anything but 200 EventSource does
// not come back.
func statusOf(code uint32) int {
	switch code {
	case disconnectInvalidTokenCode, ErrTokenExpired.Code:
		return http.StatusUnauthorized
	case ErrPermissionDenied.Code:
		return http.StatusForbidden
	case ErrBadRequest.Code, disconnectBadRequestCode:
		return http.StatusBadRequest
	case ErrTooManyRequests.Code:
		return http.StatusTooManyRequests
	case ErrInternal.Code:
		return http.StatusServiceUnavailable
	}
	if code >= 3000 && code < 3500 {
		return http.StatusServiceUnavailable // it may go well later
	}
	return http.StatusForbidden
}

// bearer is the request's token. EventSource can set no header, so it may stand in the query, which is never
// logged.
func bearer(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return r.URL.Query().Get("token")
}

// eventsSince is the position after which a client wants to go on. EventSource repeats its first URL, so the
// header is the newer one; one that is not ours cannot be recovered, and the client is told so.
func eventsSince(r *http.Request) (p Position, given, ok bool) {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		p, _ = parseEventID(id)
		return p, true, true
	}
	if !r.URL.Query().Has("since") {
		return Position{}, false, true
	}
	p, ok = parseEventID(r.URL.Query().Get("since"))
	return p, true, ok
}
