package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"forgewire/cache"
	"forgewire/cache/llm"
	"forgewire/handlers/access"
	"forgewire/infra/config"
	"forgewire/realtime"
)

// readWithin bounds a look into the log for an answer.
const readWithin = 5 * time.Second

// newModels makes the endpoint for language models; nil where no upstream is configured.
func newModels(cfg appConfig, b *base, node *realtime.Node, values *cache.Cache, gate *access.Gate, logger *slog.Logger) (*llm.Service, error) {
	var upstreams llm.Upstreams
	var err error
	switch {
	case cfg.Upstreams != "":
		if upstreams, err = llm.ParseUpstreams(cfg.Upstreams.Reveal(), os.Getenv); err != nil {
			return nil, config.Mistakes{{Variable: "FORGEWIRE_UPSTREAMS", Problem: err.Error(),
				Example: `{"upstreams":[{"name":"openai","url":"https://api.openai.com/v1","key_env":"OPENAI_API_KEY"}]}`}}
		}
	case cfg.UpstreamURL != "":
		if upstreams, err = llm.SingleUpstream(cfg.UpstreamURL.Reveal(), cfg.UpstreamKey.Reveal()); err != nil {
			return nil, config.Mistakes{{Variable: "FORGEWIRE_UPSTREAM_URL", Problem: err.Error(), Example: "https://api.openai.com/v1"}}
		}
	default:
		return nil, nil
	}
	s, err := llm.New(llm.Config{
		Upstreams: upstreams, Cache: values, Pool: b.flights, Transport: b.tracing.Transport, Log: modelLog{node}, LogKept: cfg.RetentionAge, Bus: node, Logger: logger, Mode: llm.Mode(cfg.LLMCache),
		TTLs:            llm.TTLs{Prompt: cfg.TTLPrompt, Evaluation: cfg.TTLEvaluation, System: cfg.TTLSystem},
		MaxMessageBytes: cfg.MaxPublicationBytes, Record: gate.Record, Reserve: gate.Reserve, Grace: cfg.ShutdownTimeout / 2,
	})
	if err != nil {
		return nil, fmt.Errorf("make the endpoint for language models: %w", err)
	}
	node.OnJoin(llm.Namespace, s.Joined)
	node.Hear(llm.Topic, s.Announced)
	return s, nil
}

// modelLog is the realtime log as answers of models travel through it.
type modelLog struct{ node *realtime.Node }

// Append implements llm.Log.
func (l modelLog) Append(ctx context.Context, channel string, messages ...[]byte) error {
	publications := make([]realtime.Message, len(messages))
	for i, m := range messages {
		publications[i] = realtime.Message{Channel: channel, Data: m}
	}
	_, err := l.node.Publish(ctx, publications...)
	return err
}

// Read implements llm.Log.
func (l modelLog) Read(ctx context.Context, channel string, most int) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	h, err := l.node.History(ctx, channel, realtime.HistoryFilter{Limit: most})
	if errors.Is(err, realtime.ErrUnrecoverable) {
		return nil, nil
	}
	return data(h.Messages), err
}

// Follow implements llm.Log.
func (l modelLog) Follow(channel string) (llm.Follower, error) {
	f, err := l.node.Follow(channel, 0)
	if err != nil {
		return nil, err
	}
	return modelFollower{f}, nil
}

type modelFollower struct{ *realtime.Follower }

// Next implements llm.Follower.
func (f modelFollower) Next(ctx context.Context) ([][]byte, error) {
	messages, err := f.Follower.Next(ctx)
	return data(messages), err
}

func data(messages []realtime.Message) [][]byte {
	out := make([][]byte, len(messages))
	for i := range messages {
		out[i] = messages[i].Data
	}
	return out
}
