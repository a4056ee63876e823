package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"forgewire/realtime"
)

type batchRequest struct {
	Commands []map[string]json.RawMessage `json:"commands" api:"required"`
	Parallel bool                         `json:"parallel"` // ours run in order, which keeps either promise
}

type batchReply struct {
	Replies []any `json:"replies"`
}

// batch runs several commands, each {"METHOD": request}, and answers each with {"METHOD": result} or
// {"error": …}. One that fails does not keep the others from running. Publishes that follow each other are
// appended together.
func (s *server) batch(w http.ResponseWriter, r *http.Request) {
	body, ok := s.body(w, r)
	if !ok {
		return
	}
	var req batchRequest
	err := decode(body, &req)
	if err == nil && len(req.Commands) > maxCommands {
		err = fmt.Errorf("more than %d commands", maxCommands)
	}
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With(err.Error()))
		return
	}
	reply := batchReply{Replies: make([]any, 0, len(req.Commands))}
	for len(reply.Replies) < len(req.Commands) {
		rest := req.Commands[len(reply.Replies):]
		if some := s.publishRun(r.Context(), rest); len(some) > 0 {
			reply.Replies = append(reply.Replies, some...)
			continue
		}
		reply.Replies = append(reply.Replies, s.command(r.Context(), rest[0]))
	}
	s.write(w, r, http.StatusOK, reply)
}

// publishRun appends the publishes that commands begin with in one transaction, if there are several and all
// are well formed; otherwise each runs alone and gets its own error.
func (s *server) publishRun(ctx context.Context, commands []map[string]json.RawMessage) []any {
	var messages []realtime.Message
	for _, c := range commands {
		var p publishRequest
		raw, ok := c["publish"]
		if !ok || len(c) != 1 || decode(raw, &p) != nil {
			break
		}
		messages = append(messages, p.message())
	}
	if len(messages) < 2 {
		return nil
	}
	for i := range messages {
		if s.node.Check(&messages[i]) != nil {
			return nil
		}
	}
	replies := make([]any, len(messages))
	sent, err := s.node.Publish(ctx, messages...)
	for i := range replies {
		failed := err
		if partial := (*realtime.Partial)(nil); errors.As(err, &partial) {
			failed = partial.Errors[i]
		}
		if failed != nil {
			replies[i] = errorBody{s.errorFor(ctx, failed)}
			continue
		}
		replies[i] = map[string]position{"publish": {Offset: sent[i].Offset, Epoch: s.node.Epoch(sent[i].Channel)}}
	}
	return replies
}

// command runs one command of a batch.
func (s *server) command(ctx context.Context, c map[string]json.RawMessage) any {
	if len(c) != 1 {
		return errorBody{realtime.ErrBadRequest.With("a command has exactly one method")}
	}
	for name, raw := range c {
		for _, m := range s.methods {
			if m.name != name {
				continue
			}
			result, e := m.call(ctx, raw)
			if e != nil {
				return errorBody{e}
			}
			return map[string]any{name: result}
		}
	}
	return errorBody{realtime.ErrMethodNotFound}
}
