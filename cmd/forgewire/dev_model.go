package main

import (
	"fmt"
	"time"

	"forgewire/handlers/demo"
	"forgewire/infra/config"
	"forgewire/infra/fakellm"
)

// imitation is the model that `dev` starts where the environment names none. It is slow enough to reload the page
// in mid-answer.
const imitation = "imitation"

// imitationNote is what the developer is told of it.
const imitationNote = "a model that imitates; set FORGEWIRE_UPSTREAM_URL and FORGEWIRE_UPSTREAM_KEY for a real one"

// hasUpstream reports whether the environment names a model, or tries to: a key without a URL is a mistake to tell,
// not one to cover up.
func hasUpstream(cfg *config.Config) bool {
	return cfg.UpstreamURL != "" || cfg.UpstreamKey != "" || cfg.Upstreams != ""
}

// startImitation starts the model that imitates. Whoever calls it closes it, after the replicas.
func startImitation() (*fakellm.Server, error) {
	model, err := fakellm.Start(fakellm.Config{Behaviours: map[string]fakellm.Behaviour{
		imitation: {Tokens: 100, FirstToken: 700 * time.Millisecond, Interval: 60 * time.Millisecond},
	}})
	if err != nil {
		return nil, fmt.Errorf("start the model that imitates: %w", err)
	}
	return model, nil
}

// lines are what the page shows besides messages, and what it asks the model with.
func (d *devCluster) lines(url string) demo.Config {
	lines := demo.Config{
		PSQL: fmt.Sprintf(`psql '%s' -c "SELECT forgewire.publish('room:1', '{\"text\":\"hello from psql\"}')"`, d.stack.Postgres.URL()),
		Curl: fmt.Sprintf(`curl %s/api/publish -H 'X-API-Key: %s' -d '{"channel":"room:1","data":{"text":"hello from curl"}}'`, url, d.cfg.APIKey.Reveal()),
		Key:  d.cfg.APIKey.Reveal(),
	}
	if d.imitated {
		lines.Model = imitationNote
	}
	return lines
}
