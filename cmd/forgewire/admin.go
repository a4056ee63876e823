package main

import (
	"fmt"
	"log/slog"

	"forgewire/handlers/access"
	"forgewire/handlers/admin"
	"forgewire/handlers/resources"
	"forgewire/realtime"
)

// operatorKey signs what the dashboard gives out, the same on every replica; nil where there is no dashboard.
func operatorKey(cfg appConfig) ([]byte, error) {
	if cfg.AdminPassword == "" {
		return nil, nil
	}
	return admin.Key(cfg.AdminPassword.Reveal(), cfg.APIKey.Reveal(), cfg.TokenSecret.Reveal())
}

// newAdmin makes the dashboard; nil where no password is configured.
func newAdmin(cfg appConfig, b *base, node *realtime.Node, gate *access.Gate, serves *resources.Service, tokens realtime.TokenConfig, logger *slog.Logger) (*admin.Admin, error) {
	if cfg.AdminPassword == "" {
		return nil, nil
	}
	a, err := admin.New(admin.Config{Password: cfg.AdminPassword.Reveal(), Key: tokens.OperatorKey, Tokens: tokens,
		Node: node, Gate: gate, Resources: serves, Pool: b.requests, Logger: logger, Version: version})
	if err != nil {
		return nil, fmt.Errorf("make the dashboard: %w", err)
	}
	return a, nil
}
