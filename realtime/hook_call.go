package realtime

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"
)

// hookRequest is what every hook is told of the client; each call adds its own. The fields are Centrifugo's.
type hookRequest struct {
	Client    string `json:"client"`
	Transport string `json:"transport"`
	Protocol  string `json:"protocol"`
	Encoding  string `json:"encoding"`

	User    *string         `json:"user,omitempty"` // all but connect
	Channel string          `json:"channel,omitempty"`
	Method  string          `json:"method,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Meta    json.RawMessage `json:"meta,omitempty"`

	// Of the connect hook.
	Name     string   `json:"name,omitempty"`
	Version  string   `json:"version,omitempty"`
	Channels []string `json:"channels,omitempty"`
}

// hookReply is what a hook answers: a result, or an error for the client, or the end of its connection. An
// empty answer allows what the client asked for.
type hookReply[R any] struct {
	Result *R `json:"result"`
	Error  *struct {
		Code      uint32 `json:"code"`
		Message   string `json:"message"`
		Temporary bool   `json:"temporary"`
	} `json:"error"`
	Disconnect *struct {
		Code   uint32 `json:"code"`
		Reason string `json:"reason"`
	} `json:"disconnect"`
}

// pick returns the one that is there, on one line. Null is nothing.
func pick(plain json.RawMessage, encoded string) (json.RawMessage, error) {
	if encoded != "" {
		b, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, errors.New("a field is not valid base64")
		}
		plain = b
	}
	if len(plain) == 0 || string(plain) == "null" {
		return nil, nil
	}
	data, why := compact(plain)
	if why != "" {
		return nil, errors.New("in a base64 field, " + why)
	}
	return data, nil
}

// pickKept is pick for what stays in memory as long as the connection, and may travel with every message.
func pickKept(plain json.RawMessage, encoded string) (json.RawMessage, error) {
	data, err := pick(plain, encoded)
	if err == nil && len(data) > MaxInfoBytes {
		return nil, fmt.Errorf("info or meta is larger than %d bytes", MaxInfoBytes)
	}
	return data, err
}

// expiry is the time that a Unix time in a hook's result means; zero for never.
func expiry(at int64) time.Time {
	if at <= 0 {
		return time.Time{}
	}
	return time.Unix(min(at, math.MaxInt32*2), 0)
}

// consult calls a hook for a client. It returns the result, nil where there is none, or an *Error or a
// *Disconnect, which the client gets: the hook's own, ErrInternal where the hook did not answer as it must,
// ErrTooManyRequests where too many calls are under way. It takes the hook's timeout at most.
func consult[R any](ctx context.Context, c *client, h *hook, req hookRequest) (*R, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		c.node.stats.hooks.refused.Add(1)
		return nil, ErrTooManyRequests.With("too many calls of the " + h.name + " hook are under way")
	}
	req.Client, req.Encoding = c.id, "json"
	req.Transport, req.Protocol = c.format.names()
	if h.meta {
		req.Meta = c.connMeta()
	}
	reply, err := call[R](ctx, h, c.headersFor(h), req)
	if err != nil {
		c.node.stats.hooks.failed.Add(1)
		c.node.logger.Warn("a hook did not answer as it must", "hook", h.name, "client", c.id, "error", err)
		return nil, ErrInternal
	}
	switch {
	case reply.Disconnect != nil:
		return nil, &Disconnect{Code: uint16(reply.Disconnect.Code), Reason: truncate(reply.Disconnect.Reason, maxReason)}
	case reply.Error != nil:
		return nil, &Error{Code: reply.Error.Code, Message: reply.Error.Message, Temporary: reply.Error.Temporary}
	}
	return reply.Result, nil
}

// maxReason is what a close frame has room for.
const maxReason = 123

// truncate cuts s to at most n bytes, between characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// headersFor are those of the handshake that h is sent.
func (c *client) headersFor(h *hook) http.Header {
	kept := http.Header{}
	for _, name := range h.headers {
		if values := c.headers[name]; len(values) > 0 {
			kept[name] = values
		}
	}
	return kept
}

// call posts one request and reads the reply.
func call[R any](ctx context.Context, h *hook, forwarded http.Header, body any) (*hookReply[R], error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(b))
	if err != nil {
		return nil, errors.New("make the request: the endpoint is not valid") // the error would quote it
	}
	maps.Copy(req.Header, forwarded)
	maps.Copy(req.Header, h.static) // last: no client can speak for us
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the status is %d, not 200", resp.StatusCode)
	}
	b, err = io.ReadAll(io.LimitReader(resp.Body, maxHookReply+1))
	if err != nil {
		return nil, fmt.Errorf("read the reply: %w", err)
	}
	if len(b) > maxHookReply {
		return nil, fmt.Errorf("the reply is larger than %d bytes", maxHookReply)
	}
	var reply hookReply[R]
	if err = json.Unmarshal(b, &reply); err != nil {
		return nil, fmt.Errorf("decode the reply: %w", err)
	}
	switch {
	case reply.Error != nil && reply.Error.Code == 0:
		return nil, errors.New("the reply's error has no code")
	case reply.Disconnect != nil && (reply.Disconnect.Code < 3000 || reply.Disconnect.Code > 4999):
		return nil, errors.New("the reply's disconnect code is not from 3000 to 4999")
	}
	return &reply, nil
}

// withoutURL leaves the URL, which may hold a secret, out of what net/http says.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// names are what hooks are told of a client's transport.
func (f format) names() (transport, protocol string) {
	switch f {
	case wsProtobuf:
		return "websocket", "protobuf"
	case streamJSON:
		return "http_stream", "json"
	case streamProtobuf:
		return "http_stream", "protobuf"
	case sseJSON, events:
		return "sse", "json"
	default:
		return "websocket", "json"
	}
}
