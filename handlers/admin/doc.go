// Package admin is the dashboard at /admin: what all replicas do now, channels and who is on them, the cache, slow
// requests, the database, memory, API keys and runs.
//
// It is there only where a password or an identity provider (OpenID Connect: code flow with PKCE, state and nonce) is
// configured. A login makes a signed cookie that is good for some hours on every
// replica; logging out takes it back everywhere, since that goes through realtime's revocations. Attempts are
// limited, by address and altogether, and so a password cannot be guessed.
//
// Figures come over our own WebSocket, on a channel that only tokens of this package may subscribe to (see
// realtime.OperatorNamespace). The replica that a dashboard is connected to asks all of them every two seconds, and
// only while somebody watches: nobody's idle replica is kept busy.
//
//	dashboard, err := admin.New(admin.Config{Password: "…", Key: key, Node: node, …})
//	routes.Mount(admin.Path, dashboard.Routes())
//	group.Go(func() error { return dashboard.Run(ctx) })
//
// The page is embedded as it is written, without a build step, one file a panel. What comes from clients is only ever
// shown as text.
package admin
