package bench

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"forgewire/infra/fakellm"
)

// The fake models. Times are about a quarter of a real model's, so that a run does not take all day; what is
// compared with them are ratios.
var fakeModels = map[string]fakellm.Behaviour{
	"instant": {Tokens: 20},
	"paced":   {Interval: pacedInterval, Stamped: true}, // Tokens as configured
	"slow":    {Tokens: 45, FirstToken: 300 * time.Millisecond, Interval: 20 * time.Millisecond},
	"fast":    {Tokens: 15, FirstToken: 60 * time.Millisecond, Interval: 6 * time.Millisecond},
}

// pacedInterval is 20 tokens a second.
const pacedInterval = 50 * time.Millisecond

// upstreamKey is what the replicas show the model, which looks at no key.
const upstreamKey = "bench-upstream-key"

// llmSystem is a model, replicas in front of it, and how to ask either.
type llmSystem struct {
	*stack
	model  *fakellm.Server
	direct target
	ours   []target // by replica
	asked  int      // unique questions so far
}

func startLLM(ctx context.Context, cfg LLMConfig) (*llmSystem, error) {
	models := map[string]fakellm.Behaviour{}
	for name, b := range fakeModels {
		if name == "paced" {
			b.Tokens = cfg.Tokens
		}
		models[name] = b
	}
	model, err := fakellm.Start(fakellm.Config{Behaviours: models})
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(model.URL())
	if err != nil {
		model.Close()
		return nil, fmt.Errorf("parse the model's address: %w", err)
	}
	s := &llmSystem{model: model, direct: target{base: &url.URL{Scheme: base.Scheme, Host: base.Host}}}
	s.stack, err = cfg.start(ctx, stackConfig{Replicas: cfg.Replicas, Valkey: true,
		Variables: []string{"FORGEWIRE_UPSTREAM_URL=" + model.URL(), "FORGEWIRE_UPSTREAM_KEY=" + upstreamKey}})
	if err != nil {
		model.Close()
		return nil, err
	}
	for _, r := range s.replicas {
		s.ours = append(s.ours, target{base: r.url, key: s.apiKey})
	}
	return s, nil
}

func (s *llmSystem) stop(ctx context.Context) error {
	err := s.stack.stop(ctx)
	s.model.Close()
	return err
}

// unique is a question that was never asked.
func (s *llmSystem) unique(model string, stream bool) question {
	s.asked++
	return question{model: model, text: fmt.Sprintf("question %d that nobody else asks", s.asked), stream: stream}
}
