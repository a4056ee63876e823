package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"forgewire/infra/memory"
	"forgewire/realtime"
)

// Bounds of a request's body.
const (
	maxEnvelopeBytes = 64 << 10 // what surrounds one publication
	maxBatchBytes    = 4 << 20
	maxCommands      = 1000 // of a batch, and channels of a broadcast
)

// decode is strict: a field that we do not know may be one that the caller relies on.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the request is not what this method takes: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return refused(into)
}

// body reads a request's body, or answers and returns false.
func (s *server) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		s.fail(w, r, http.StatusRequestEntityTooLarge, realtime.ErrLimitExceeded.With(fmt.Sprintf("the request is larger than %d bytes", s.maxBody)))
		return nil, false
	case errors.Is(err, memory.ErrShort):
		s.fail(w, r, http.StatusServiceUnavailable, errShedding)
		return nil, false
	case err != nil:
		s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("the request's body could not be read"))
		return nil, false
	case !json.Valid(body):
		s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("the request's body is not valid JSON"))
		return nil, false
	}
	return body, true
}

type position struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

type publishRequest struct {
	Channel string            `json:"channel" api:"required"`
	Data    json.RawMessage   `json:"data" api:"required"`
	Tags    map[string]string `json:"tags"`
	Key     string            `json:"idempotency_key"` // a retry with the same is not a second message
}

func (p *publishRequest) message() realtime.Message {
	return realtime.Message{Channel: p.Channel, Data: p.Data, Meta: realtime.Meta{Tags: p.Tags}, Key: p.Key}
}

// publish appends one message, and answers when it is committed.
func (s *server) publish(ctx context.Context, req *publishRequest) (*position, error) {
	sent, err := s.node.Publish(ctx, req.message())
	if err != nil {
		return nil, err
	}
	return &position{Offset: sent[0].Offset, Epoch: s.node.Epoch(sent[0].Channel)}, nil
}

type broadcastRequest struct {
	Channels []string          `json:"channels" api:"required"`
	Data     json.RawMessage   `json:"data" api:"required"`
	Tags     map[string]string `json:"tags"`
	Key      string            `json:"idempotency_key"` // on each of the channels
}

type broadcastResult struct {
	Responses []broadcastReply `json:"responses"`
}

// broadcastReply has an error instead of a result only where there are several logs: one of them may be away.
type broadcastReply struct {
	Error  *realtime.Error `json:"error,omitempty"`
	Result *position       `json:"result,omitempty"`
}

// broadcast appends the same data to several channels, in one transaction for each log that has some of them.
func (s *server) broadcast(ctx context.Context, req *broadcastRequest) (*broadcastResult, error) {
	if len(req.Channels) == 0 {
		return nil, realtime.ErrBadRequest.With("channels is empty")
	}
	if len(req.Channels) > maxCommands {
		return nil, realtime.ErrLimitExceeded.With(fmt.Sprintf("more than %d channels", maxCommands))
	}
	messages := make([]realtime.Message, len(req.Channels))
	for i, c := range req.Channels {
		messages[i] = realtime.Message{Channel: c, Data: req.Data, Meta: realtime.Meta{Tags: req.Tags}, Key: req.Key}
	}
	sent, err := s.node.Publish(ctx, messages...)
	var partial *realtime.Partial
	if err != nil && (!errors.As(err, &partial) || !slices.Contains(partial.Errors, nil)) {
		return nil, err
	}
	r := &broadcastResult{Responses: make([]broadcastReply, len(sent))}
	for i := range sent {
		if partial != nil && partial.Errors[i] != nil {
			r.Responses[i].Error = s.errorFor(ctx, partial.Errors[i])
			continue
		}
		r.Responses[i].Result = &position{Offset: sent[i].Offset, Epoch: s.node.Epoch(sent[i].Channel)}
	}
	return r, nil
}

type historyRequest struct {
	Channel string    `json:"channel" api:"required"`
	Limit   int       `json:"limit"`
	Since   *position `json:"since"`
	Reverse bool      `json:"reverse"`
}

type publication struct {
	Data   json.RawMessage   `json:"data"`
	Offset uint64            `json:"offset"`
	Tags   map[string]string `json:"tags,omitempty"`
	Info   *realtime.Info    `json:"info,omitempty"`
}

type historyResult struct {
	Publications []publication `json:"publications"`
	position
}

// history pages through a channel's past.
func (s *server) history(ctx context.Context, req *historyRequest) (*historyResult, error) {
	f := realtime.HistoryFilter{Limit: req.Limit, Reverse: req.Reverse}
	if req.Since != nil {
		f.Since = &realtime.Position{Offset: req.Since.Offset, Epoch: req.Since.Epoch}
	}
	h, err := s.node.History(ctx, req.Channel, f)
	if err != nil {
		return nil, err
	}
	r := &historyResult{Publications: make([]publication, len(h.Messages)), position: position{Offset: h.Position.Offset, Epoch: h.Position.Epoch}}
	for i, m := range h.Messages {
		r.Publications[i] = publication{Data: m.Data, Offset: m.Offset, Tags: m.Meta.Tags, Info: m.Meta.Info}
	}
	return r, nil
}
