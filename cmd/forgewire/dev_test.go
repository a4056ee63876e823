package main

import (
	"testing"

	"forgewire/infra/config"
)

// The model of a developer is never replaced by the one that imitates.
func TestDevImitatesOnlyWithoutUpstream(t *testing.T) {
	for variable, want := range map[string]bool{
		"FORGEWIRE_UPSTREAM_URL=https://api.example.com/v1": true,
		"FORGEWIRE_UPSTREAM_URL= ":                          false,
		"FORGEWIRE_UPSTREAM_KEY=sk-1":                       true,
		`FORGEWIRE_UPSTREAMS={"upstreams":[{"name":"local","url":"http://127.0.0.1:8000/v1"}]}`: true,
		"FORGEWIRE_LLM_CACHE=deterministic":                                                     false,
	} {
		cfg, err := config.LoadOnly(devEnviron([]string{variable}))
		if err != nil {
			t.Errorf("%s: %v", variable, err)
			continue
		}
		if got := hasUpstream(cfg); got != want {
			t.Errorf("%s: %v, want %v", variable, got, want)
		}
	}
}
