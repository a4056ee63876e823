package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// Bounds of a request that opens a stream or carries commands for one.
const (
	maxFirstCommands = 64 << 10         // as for a WebSocket that is not connected yet
	bodyTimeout      = 10 * time.Second // for all of the body
)

// contentTypes of the streams.
var contentTypes = [formats]string{
	streamJSON:     "application/x-ndjson",
	streamProtobuf: "application/octet-stream",
	sseJSON:        "text/event-stream; charset=utf-8",
	events:         "text/event-stream; charset=utf-8",
}

// ServeSSE is the client protocol over server-sent events: the first commands come in the query (cf_connect)
// or the body, later ones through ServeEmulation, replies and pushes as events.
func (n *Node) ServeSSE(w http.ResponseWriter, r *http.Request) {
	if !n.admitOrigin(w, r) {
		return
	}
	commands := []byte(r.URL.Query().Get("cf_connect"))
	if r.Method == http.MethodPost {
		var ok bool
		if commands, ok = readBody(w, r, maxFirstCommands); !ok {
			return
		}
	}
	n.serveCommands(w, r, sseJSON, commands)
}

// ServeHTTPStream is the client protocol over a response that does not end: the first commands come in the
// body, later ones through ServeEmulation. It is Protobuf if the request is.
func (n *Node) ServeHTTPStream(w http.ResponseWriter, r *http.Request) {
	if !n.admitOrigin(w, r) {
		return
	}
	commands, ok := readBody(w, r, maxFirstCommands)
	if !ok {
		return
	}
	f := streamJSON
	if isBinary(r) {
		f = streamProtobuf
	}
	n.serveCommands(w, r, f, commands)
}

func isBinary(r *http.Request) bool {
	return r.Header.Get("Content-Type") == "application/octet-stream"
}

// serveCommands opens a stream that can be written to by ServeEmulation.
func (n *Node) serveCommands(w http.ResponseWriter, r *http.Request, f format, first []byte) {
	if len(bytes.TrimSpace(first)) == 0 {
		refuse(w, http.StatusBadRequest, ErrBadRequest.With("the connect command is missing"))
		return
	}
	n.serveStream(w, r, f, func(ctx context.Context, c *client) bool {
		c.session = n.sessions.open(ctx, c)
		if d := c.handleCommands(ctx, first); d != nil {
			c.disconnect(d)
		}
		return true
	})
}

// serveStream serves one client over w until either side ends it. begin runs the first commands, before the
// response begins; it returns false if it has answered the request itself.
func (n *Node) serveStream(w http.ResponseWriter, r *http.Request, f format, begin func(context.Context, *client) bool) {
	if !n.enter() {
		refuseStream(w, r, f, http.StatusServiceUnavailable, ErrInternal.With("shutting down"))
		return
	}
	defer n.clients.Done()
	leave, ok := n.admit(w, r)
	if !ok {
		return
	}
	defer leave()
	defer n.hub.count.Add(-1)
	if n.full(n.hub.count.Add(1)) {
		n.stats.disconnects.add(disconnectLimit)
		refuseStream(w, r, f, http.StatusServiceUnavailable, ErrLimitExceeded.With("too many connections"))
		return
	}
	s := newStream(w, f)
	// The server's deadlines are for requests that end.
	_ = s.rc.SetReadDeadline(time.Time{}) // not every ResponseWriter can; then the server's remain
	_ = s.rc.SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithCancel(r.Context())
	defer context.AfterFunc(n.life, cancel)() // a command that is under way ends with the replica
	c := newClient(n, s, f)
	c.headers = n.hooks.keep(r.Header, false)
	n.join(c)
	defer s.end()
	defer c.shard.remove(c)
	defer func() { n.sessions.close(c.session) }()
	defer cancel()
	if !begin(ctx, c) {
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentTypes[f])
	h.Set("Cache-Control", "no-store, no-transform") // no-transform: compressing proxies collect before they send
	h.Set("X-Accel-Buffering", "no")                 // nginx
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if err := s.rc.Flush(); err != nil {
		n.logger.ErrorContext(ctx, "a stream cannot be flushed: something in front of its handler buffers", "error", err)
		return
	}
	if err := s.run(ctx, w); err != nil && r.Context().Err() == nil {
		n.logger.DebugContext(ctx, "a stream ended", "client", c.id, "error", err)
	}
}

// readBody reads a request's body, as long as bodyTimeout and up to limit bytes, or answers and returns false.
func readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, bool) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // where not, the server's own holds
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(limit)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, ErrLimitExceeded.With("the request's body is too large"))
		return nil, false
	case err != nil:
		refuse(w, http.StatusBadRequest, ErrBadRequest.With("the request's body could not be read"))
		return nil, false
	}
	return body, true
}

// refuse answers a request that opens no stream.
func refuse(w http.ResponseWriter, status int, e *Error) {
	b, err := json.Marshal(struct {
		Error *Error `json:"error"`
	}{e})
	if err != nil {
		b = []byte(`{"error":{"code":100,"message":"internal server error"}}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that left needs no answer
}
