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
	switch {
	case cfg.AdminOIDCIssuer != "":
		return admin.Key(cfg.AdminPassword.Reveal()+cfg.AdminOIDCClientSecret.Reveal(), cfg.APIKey.Reveal(), cfg.TokenSecret.Reveal(), cfg.AdminPassword.Reveal())
	case cfg.AdminPassword != "":
		return admin.Key(cfg.AdminPassword.Reveal(), cfg.APIKey.Reveal(), cfg.TokenSecret.Reveal())
	}
	return nil, nil
}

// newAdmin makes the dashboard; nil where neither a password nor an identity provider is configured.
func newAdmin(cfg appConfig, b *base, node *realtime.Node, gate *access.Gate, serves *resources.Service, tokens realtime.TokenConfig, logger *slog.Logger) (*admin.Admin, error) {
	if tokens.OperatorKey == nil {
		return nil, nil
	}
	var provider *admin.OIDC
	if cfg.AdminOIDCIssuer != "" {
		provider = &admin.OIDC{Issuer: cfg.AdminOIDCIssuer, ClientID: cfg.AdminOIDCClientID, ClientSecret: cfg.AdminOIDCClientSecret.Reveal(),
			RedirectURL: cfg.AdminOIDCRedirectURL, Allowed: cfg.AdminOIDCAllowed}
	}
	a, err := admin.New(admin.Config{Password: cfg.AdminPassword.Reveal(), OIDC: provider, Key: tokens.OperatorKey, Tokens: tokens,
		Node: node, Gate: gate, Resources: serves, Pool: b.requests, Logger: logger, Version: version})
	if err != nil {
		return nil, fmt.Errorf("make the dashboard: %w", err)
	}
	return a, nil
}
