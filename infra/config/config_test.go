package config_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"forgewire/infra/config"
)

// environ is the least that `serve` starts with, changed by extra.
func environ(extra ...string) []string {
	return append([]string{
		"PATH=/usr/bin", "HOME=/root",
		"DATABASE_URL=postgres://app:hunter2@db:5432/app",
		"FORGEWIRE_API_KEY=0123456789abcdef",
		"FORGEWIRE_TOKEN_SECRET=fedcba9876543210",
	}, extra...)
}

func TestLoadDefaults(t *testing.T) {
	cfg, err := config.Load(environ())
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Port:                8080,
		DatabaseURL:         "postgres://app:hunter2@db:5432/app",
		ListenDatabaseURL:   "postgres://app:hunter2@db:5432/app",
		DBPoolMin:           20,
		DBPoolMax:           35,
		APIKey:              "0123456789abcdef",
		TokenSecret:         "fedcba9876543210",
		AllowedOrigins:      nil,
		CacheLocalBytes:     32 << 20,
		LLMCache:            "all",
		TTLPrompt:           24 * time.Hour,
		TTLEvaluation:       12 * time.Hour,
		TTLSystem:           7 * 24 * time.Hour,
		CacheMaxConnections: 50,
		MaxConnections:      15000,
		CommandRate:         100,
		MaxPublicationBytes: 1 << 20,
		RetentionAge:        24 * time.Hour,
		RetentionBytes:      1 << 30,
		RunRetention:        720 * time.Hour,
		BodyRetention:       168 * time.Hour,
		ShutdownTimeout:     10 * time.Second,
		LogLevel:            slog.LevelInfo,
		LogFormat:           "json",
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v\nwant %+v", cfg, want)
	}
}

func TestLoadEverything(t *testing.T) {
	cfg, err := config.Load([]string{
		"PORT=9000",
		"DATABASE_URL= host=db user=app password=hunter2 dbname=app \n",
		"LISTEN_DATABASE_URL=postgresql://app@direct/app?sslmode=disable&pool_max_conns=2",
		"VALKEY_URL=rediss://:hunter2@cache:6380/1",
		"FORGEWIRE_DB_POOL_MIN=0",
		"FORGEWIRE_DB_POOL_MAX=8",
		"FORGEWIRE_API_KEY=none",
		"FORGEWIRE_TOKEN_SECRET=none",
		"FORGEWIRE_ALLOW_ANONYMOUS=1",
		"FORGEWIRE_ALLOWED_ORIGINS=app.example.com, *.example.org,localhost:3000,,[::1]:80",
		`FORGEWIRE_NAMESPACES={"chat":{}}`,
		`FORGEWIRE_HOOKS=/h.json`,
		"FORGEWIRE_WEBHOOK_URL=https://app/w",
		"FORGEWIRE_WEBHOOK_SECRET=0123456789abcdef",
		"FORGEWIRE_CACHE_LOCAL_BYTES=1048576",
		"FORGEWIRE_UPSTREAM_URL=https://api.example.com/v1",
		"FORGEWIRE_UPSTREAM_KEY=sk-1",
		"FORGEWIRE_LLM_CACHE=Deterministic",
		"FORGEWIRE_TTL_PROMPT_RESPONSE=1h",
		"FORGEWIRE_TTL_EVALUATION_RESULT=2h",
		"FORGEWIRE_TTL_SYSTEM_PROMPT=3h",
		"FORGEWIRE_CACHE_MAX_CONNECTIONS=1000",
		"FORGEWIRE_MAX_CONNECTIONS=1000000",
		"FORGEWIRE_TOKEN_PUBLIC_KEY=-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
		"FORGEWIRE_TOKEN_JWKS_URL=https://auth.example.com/keys",
		"FORGEWIRE_TOKEN_AUDIENCE=forgewire",
		"FORGEWIRE_TOKEN_ISSUER=https://auth.example.com/",
		"FORGEWIRE_MAX_USER_CONNECTIONS=20",
		"FORGEWIRE_MAX_IP_CONNECTIONS=100",
		"FORGEWIRE_MAX_IP_HANDSHAKES=10",
		"FORGEWIRE_CLIENT_IP_HEADER=Fly-Client-IP",
		"FORGEWIRE_TRUSTED_PROXIES=10.0.0.0/8, fdaa::/16,",
		"FORGEWIRE_COMMAND_RATE=0",
		"FORGEWIRE_MAX_PUBLICATION_BYTES=1024",
		"FORGEWIRE_RETENTION_AGE=1m",
		"FORGEWIRE_RETENTION_BYTES=1099511627776",
		"FORGEWIRE_RUN_RETENTION=24h",
		"FORGEWIRE_RUN_BODY_RETENTION=0s",
		"FORGEWIRE_MAX_CONNECTION_AGE=55m",
		"FORGEWIRE_IDLE_RELEASE=5m",
		"FORGEWIRE_SHUTDOWN_TIMEOUT=1m30s",
		"FORGEWIRE_LOG_LEVEL=WARN",
		"FORGEWIRE_LOG_FORMAT=Text",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Port:                9000,
		DatabaseURL:         "host=db user=app password=hunter2 dbname=app",
		ListenDatabaseURL:   "postgresql://app@direct/app?sslmode=disable&pool_max_conns=2",
		DBPoolMax:           8,
		ValkeyURL:           "rediss://:hunter2@cache:6380/1",
		AllowAnonymous:      true,
		AllowedOrigins:      []string{"app.example.com", "*.example.org", "localhost:3000", "[::1]:80"},
		Namespaces:          `{"chat":{}}`,
		CacheLocalBytes:     1 << 20,
		UpstreamURL:         "https://api.example.com/v1",
		UpstreamKey:         "sk-1",
		LLMCache:            "deterministic",
		TTLPrompt:           time.Hour,
		TTLEvaluation:       2 * time.Hour,
		TTLSystem:           3 * time.Hour,
		CacheMaxConnections: 1000,
		TokenPublicKey:      "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
		TokenJWKSURL:        "https://auth.example.com/keys",
		TokenAudience:       "forgewire",
		TokenIssuer:         "https://auth.example.com/",
		Hooks:               "/h.json",
		WebhookURL:          "https://app/w",
		WebhookSecret:       "0123456789abcdef",
		MaxConnections:      1_000_000,
		MaxUserConnections:  20,
		MaxIPConnections:    100,
		MaxIPHandshakes:     10,
		ClientIPHeader:      "Fly-Client-IP",
		TrustedProxies:      []string{"10.0.0.0/8", "fdaa::/16"},
		MaxPublicationBytes: 1024,
		RetentionAge:        time.Minute,
		RetentionBytes:      1 << 40,
		RunRetention:        24 * time.Hour,
		MaxConnectionAge:    55 * time.Minute,
		IdleRelease:         5 * time.Minute,
		ShutdownTimeout:     90 * time.Second,
		LogLevel:            slog.LevelWarn,
		LogFormat:           "text",
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v\nwant %+v", cfg, want)
	}
	if cfg.DatabaseURL.Reveal() != want.DatabaseURL.Reveal() {
		t.Error("Reveal")
	}
}

// A table per variable: a value and the words of the complaint, "" for none.
func TestLoadValues(t *testing.T) {
	for _, tt := range []struct{ set, complaint string }{
		{"PORT=1", ""},
		{"PORT=65535", ""},
		{"PORT=", ""}, // empty is the default
		{"PORT=0", `"0" is not a whole number from 1 to 65535 (example: PORT=8080)`},
		{"PORT=65536", `"65536" is not a whole number from 1 to 65535`},
		{"PORT=99999999999999999999", `is not a whole number from 1 to 65535`},
		{"PORT=http", `"http" is not a whole number`},
		{"PORT=:8080", `":8080" is not a whole number`},
		{"FORGEWIRE_METRICS_PORT=9090", ""},
		{"FORGEWIRE_METRICS_PORT=-1", "is not a whole number from 0 to 65535"},

		{"DATABASE_URL=", "is required (example: DATABASE_URL=postgres://"},
		{"DATABASE_URL=postgresql:///app?host=/run/postgresql", ""},
		{"DATABASE_URL=postgres://a:b@h1:5432,h2:5433/app", ""},
		{"DATABASE_URL=postgres://u:p%40ss@db/app?pool_max_conns=3", ""},
		{"DATABASE_URL=mysql://u:sesame@db/app?sslmode=disable", "must begin with postgres:// or postgresql://"},
		{"DATABASE_URL=jdbc:postgresql://db/app", "must begin with postgres://"},
		{"DATABASE_URL=sesame", "neither a postgres:// URL nor key=value pairs"},
		{"DATABASE_URL=postgres://u:sesame%zz@db/app", "is not a valid URL"},
		{"DATABASE_URL=postgres://u:ses/ame@db/app", "is not a valid URL"},
		{"DATABASE_URL=postgres://u:sesame@db:54x/app", "is not a valid URL"},
		{"DATABASE_URL=postgres://u:sesame@db:99999/app", "not accepted by the Postgres driver"},
		{"DATABASE_URL=postgres://u:sesame@db/app?sslmode=sesame", "not accepted by the Postgres driver"},
		{"DATABASE_URL=postgres://u:sesame@db/app?pool_max_conns=sesame", "not accepted by the Postgres driver"},
		{"DATABASE_URL=host=db port=sesame", "not accepted by the Postgres driver"},
		{"DATABASE_URL=host=db password='sesame", "not accepted by the Postgres driver"},

		{"LISTEN_DATABASE_URL=sesame", "neither a postgres:// URL"},
		{"DIRECT_URL=mysql://sesame", "must begin with postgres://"},
		{"DIRECT_DATABASE_URL=mysql://sesame", "must begin with postgres://"},

		{"VALKEY_URL=redis://cache", ""},
		{"VALKEY_URL=valkey://u:p@cache:6379/15", ""},
		{"VALKEY_URL=valkeys://cache:6379?addr=other:6379", ""},
		{"VALKEY_URL=unix:///run/valkey.sock?db=1", ""},
		{"VALKEY_URL=cache:6379", "must begin with redis://"},
		{"VALKEY_URL=http://u:sesame@cache", "must begin with redis://"},
		{"VALKEY_URL=redis://:sesame@", "names no host"},
		{"VALKEY_URL=unix://", "names no socket"},
		{"VALKEY_URL=redis://:sesame@cache/sesame", "not the number of a database"},
		{"VALKEY_URL=redis://:ses#ame@cache:63", "is not a valid URL"},
		{"VALKEY_URL=redis://:sesame@cache:63x", "is not a valid URL"},

		{"FORGEWIRE_API_KEY=", "is required; to run with the server API disabled, set it to none (example: FORGEWIRE_API_KEY=$(openssl rand"},
		{"FORGEWIRE_API_KEY=none", ""},
		{"FORGEWIRE_API_KEY=sesame-15-bytes", "too short to be safe: 15 bytes, at least 16"},
		{"FORGEWIRE_API_KEY=sesame-sesame sesame", "no white space"},
		{"FORGEWIRE_API_KEY=sesame-sesame-sesame\n", "no white space"},
		{"FORGEWIRE_API_KEY=sésame-sesame-sesame", "printable ASCII"},

		{"FORGEWIRE_TOKEN_SECRET=", "is required; to accept no tokens, set it to none and FORGEWIRE_ALLOW_ANONYMOUS to true"},
		{"FORGEWIRE_TOKEN_SECRET=sesame", "too short to be safe: 6 bytes"},
		{"FORGEWIRE_ADMIN_PASSWORD=eleven-byte", "too short to be safe: 11 bytes, at least 12"},
		{"FORGEWIRE_ADMIN_PASSWORD=none", "too short to be safe: 4 bytes"},
		{"FORGEWIRE_ADMIN_OIDC_ISSUER=http://accounts.example.com", "must begin with https://"},
		{"FORGEWIRE_ADMIN_OIDC_REDIRECT_URL=https://push.example.com/admin", "must end with /admin/login/callback"},
		{"FORGEWIRE_ADMIN_OIDC_ALLOWED=*", "would let in strangers"},
		{"FORGEWIRE_ADMIN_OIDC_ALLOWED=ada@example.com, *@*", "would let in strangers"},
		{"FORGEWIRE_ADMIN_OIDC_ALLOWED=a[@example.com", "is not a pattern"},
		{"FORGEWIRE_TOKEN_SECRET=sesame-sesame-sesame\n", "begins or ends with white space"},
		{"FORGEWIRE_TOKEN_SECRET=sésame sesame sesame", ""},
		{"FORGEWIRE_TOKEN_SECRET=none", ""}, // but see TestNobodyCouldConnect

		{"FORGEWIRE_TOKEN_JWKS_URL=https://auth.example.com/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://kong:8000/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://auth.internal/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://[::1]:8000/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://10.0.0.1/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://auth.example.com/keys", "must begin with https://"},
		{"FORGEWIRE_TOKEN_JWKS_URL=http://8.8.8.8/keys", "must begin with https://"},
		{"FORGEWIRE_TOKEN_JWKS_URL=file:///etc/keys", "is not a valid URL"},
		{"FORGEWIRE_TOKEN_JWKS_URL=ftp://auth/keys", "must begin with https://"},
		{"FORGEWIRE_TOKEN_JWKS_URL=https://u:sesame@auth/keys", "must not have a user or a password"},
		{"FORGEWIRE_TOKEN_JWKS_URL=auth.example.com", "is not a valid URL"},
		{"FORGEWIRE_TOKEN_JWKS_URL=https://a/ https://a/keys", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=https://a/ https://a/keys, b  https://b/keys,", ""},
		{"FORGEWIRE_TOKEN_JWKS_URL=https://a/keys,https://b/keys", `does not say whose tokens "https://a/keys" verifies`},
		{"FORGEWIRE_TOKEN_JWKS_URL=https://a/ https://a/keys, https://b/keys", `does not say whose tokens "https://b/keys" verifies`},
		{"FORGEWIRE_TOKEN_JWKS_URL=a https://a/keys, a https://b/keys", `has the issuer "a" twice`},
		{"FORGEWIRE_TOKEN_JWKS_URL=a https://a/keys, b http://b.example.com/keys", `the address of "b", which must begin with https://`},
		{"FORGEWIRE_TOKEN_JWKS_URL=a https://a/keys https://a/others", `the address of "a", which is not a valid URL`},
		{"FORGEWIRE_CLIENT_IP_HEADER=Fly-Client-IP", ""},
		{"FORGEWIRE_CLIENT_IP_HEADER=Fly-Client-IP:", "is not the name of a header"},
		{"FORGEWIRE_TRUSTED_PROXIES=10.0.0.0/8,192.0.2.1", `"192.0.2.1" is not a network`},
		{"FORGEWIRE_TRUSTED_PROXIES=::ffff:10.0.0.0/104", "is not a network"},
		{"FORGEWIRE_COMMAND_RATE=-1", "is not a whole number from 0"},

		{"FORGEWIRE_ALLOW_ANONYMOUS=false", ""},
		{"FORGEWIRE_ALLOW_ANONYMOUS=yes", `"yes" is not true or false (example: FORGEWIRE_ALLOW_ANONYMOUS=true)`},

		{"FORGEWIRE_ALLOWED_ORIGINS=*", ""},
		{"FORGEWIRE_ALLOWED_ORIGINS=a.example,https://b.example", `"https://b.example" is not a host`},
		{"FORGEWIRE_ALLOWED_ORIGINS=a.example b.example", `is not a host`},
		{"FORGEWIRE_ALLOWED_ORIGINS=a[.example", `"a[.example" is not a pattern`},
		{"FORGEWIRE_ALLOWED_ORIGINS=a.example:", `has no port`},

		{"FORGEWIRE_NAMESPACES=/etc/namespaces.json", ""},

		{"FORGEWIRE_MAX_CONNECTIONS=0", "is not a whole number from 1 to 1000000"},
		{"FORGEWIRE_MAX_CONNECTIONS=1000001", "is not a whole number from 1 to 1000000"},
		{"FORGEWIRE_MAX_PUBLICATION_BYTES=1023", "is not a whole number from 1024 to 16777216"},
		{"FORGEWIRE_MAX_PUBLICATION_BYTES=16777216", ""},
		{"FORGEWIRE_MAX_PUBLICATION_BYTES=16777217", "is not a whole number from 1024 to 16777216"},
		{"FORGEWIRE_MAX_PUBLICATION_BYTES=1MiB", `"1MiB" is not a whole number`},
		{"FORGEWIRE_RETENTION_AGE=59s", `"59s" is not a duration of at least 1m`},
		{"FORGEWIRE_RETENTION_AGE=1d", `"1d" is not a duration of at least 1m (example: FORGEWIRE_RETENTION_AGE=24h)`},
		{"FORGEWIRE_RETENTION_BYTES=16777215", "is not a whole number of at least 16777216"},
		{"FORGEWIRE_RETENTION_BYTES=16777216", ""},
		{"FORGEWIRE_RUN_RETENTION=23h", "is not a duration of at least 24h"},
		{"FORGEWIRE_SHUTDOWN_TIMEOUT=0s", `"0s" is not a duration of at least 1ms`},
		{"FORGEWIRE_SHUTDOWN_TIMEOUT=-5s", `"-5s" is not a duration of at least 1ms`},
		{"FORGEWIRE_SHUTDOWN_TIMEOUT=10", `"10" is not a duration`},
		{"FORGEWIRE_LOG_LEVEL=Debug", ""},
		{"FORGEWIRE_LOG_LEVEL=loud", `"loud" is not debug, info, warn or error`},
		{"FORGEWIRE_LOG_LEVEL=info+2", `"info+2" is not debug, info, warn or error`},
		{"FORGEWIRE_LOG_FORMAT=xml", `"xml" is not json or text`},
	} {
		t.Run(tt.set, func(t *testing.T) {
			name, _, _ := strings.Cut(tt.set, "=")
			cfg, err := config.LoadOnly(environ(tt.set), "DATABASE_URL", "FORGEWIRE_API_KEY", "FORGEWIRE_TOKEN_SECRET")
			if tt.complaint == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			mistakes, _ := errors.AsType[config.Mistakes](err)
			if len(mistakes) != 1 || mistakes[0].Variable != name || cfg != nil {
				t.Fatalf("got %v, %v", cfg, err)
			}
			if line := mistakes[0].String(); !strings.Contains(line, tt.complaint) {
				t.Errorf("complaint %q, want %q", line, tt.complaint)
			}
			if strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "ses") && strings.Contains(tt.set, "ses/ame") {
				t.Errorf("the value is in %q", err)
			}
		})
	}
}

func TestListenDatabaseURL(t *testing.T) {
	const one, two, three = "postgres://one/a", "postgres://two/a", "postgres://three/a"
	for name, tt := range map[string]struct {
		set  []string
		want config.Secret
	}{
		"falls back":         {nil, "postgres://app:hunter2@db:5432/app"},
		"own name first":     {[]string{"LISTEN_DATABASE_URL=" + one, "DIRECT_URL=" + two, "DIRECT_DATABASE_URL=" + three}, one},
		"DIRECT_URL second":  {[]string{"LISTEN_DATABASE_URL= ", "DIRECT_URL=" + two, "DIRECT_DATABASE_URL=" + three}, two},
		"the other is third": {[]string{"DIRECT_DATABASE_URL=" + three}, three},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Load(environ(tt.set...))
			if err != nil {
				t.Fatal(err)
			}
			if cfg.ListenDatabaseURL != tt.want {
				t.Errorf("got %s", cfg.ListenDatabaseURL.Reveal())
			}
		})
	}
}

func TestMetricsPort(t *testing.T) {
	_, err := config.Load(environ("FORGEWIRE_METRICS_PORT=8080"))
	if err == nil || !strings.Contains(err.Error(), "FORGEWIRE_METRICS_PORT: is PORT") {
		t.Errorf("got %v", err)
	}
	if cfg, err := config.Load(environ("FORGEWIRE_METRICS_PORT=9090")); err != nil || cfg.MetricsPort != 9090 {
		t.Errorf("got %v, %v", cfg, err)
	}
}

// Who says whom he trusts, but not with what, would be trusted with nothing.
func TestTrustedProxies(t *testing.T) {
	_, err := config.Load(environ("FORGEWIRE_TRUSTED_PROXIES=10.0.0.0/8"))
	if err == nil || !strings.Contains(err.Error(), "FORGEWIRE_CLIENT_IP_HEADER: is required with FORGEWIRE_TRUSTED_PROXIES") {
		t.Errorf("got %v", err)
	}
}

func TestKeySets(t *testing.T) {
	for given, want := range map[string]map[string]string{
		"": {}, "https://a/keys": {"": "https://a/keys"},
		"https://a/ https://a/keys, b  https://b/keys": {"https://a/": "https://a/keys", "b": "https://b/keys"},
	} {
		cfg, err := config.Load(environ("FORGEWIRE_TOKEN_JWKS_URL=" + given))
		if err != nil || !maps.Equal(cfg.KeySets(), want) {
			t.Errorf("%q: %v, %v", given, cfg.KeySets(), err)
		}
	}
	_, err := config.Load(environ("FORGEWIRE_TOKEN_JWKS_URL=a https://a/keys", "FORGEWIRE_TOKEN_ISSUER=a"))
	if err == nil || !strings.Contains(err.Error(), "FORGEWIRE_TOKEN_ISSUER: cannot be set where FORGEWIRE_TOKEN_JWKS_URL names issuers") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyCouldConnect(t *testing.T) {
	_, err := config.Load(environ("FORGEWIRE_TOKEN_SECRET=none"))
	if err == nil || !strings.Contains(err.Error(), "FORGEWIRE_ALLOW_ANONYMOUS: nobody could connect") {
		t.Errorf("got %v", err)
	}
	if _, err := config.Load(environ("FORGEWIRE_TOKEN_SECRET=none", "FORGEWIRE_ALLOW_ANONYMOUS=true")); err != nil {
		t.Error(err)
	}
	// With a key, the secret may be missing.
	for _, key := range []string{"FORGEWIRE_TOKEN_PUBLIC_KEY=x", "FORGEWIRE_TOKEN_JWKS_URL=https://auth/keys"} {
		for _, secret := range []string{"", "none"} {
			if _, err := config.Load(environ("FORGEWIRE_TOKEN_SECRET="+secret, key)); err != nil {
				t.Error(err)
			}
		}
	}
	// One cause, one complaint.
	_, err = config.Load(environ("FORGEWIRE_TOKEN_SECRET="))
	if m, _ := errors.AsType[config.Mistakes](err); len(m) != 1 || m[0].Variable != "FORGEWIRE_TOKEN_SECRET" {
		t.Errorf("got %v", err)
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := config.Load([]string{"PORT=x", "DIRECT_URL=y", "FORGEWIRE_API_KEY=short", "FORGEWIRE_LOG_FROMAT=json"})
	const want = `the configuration has 6 mistakes:
  PORT: "x" is not a whole number from 1 to 65535 (example: PORT=8080)
  DATABASE_URL: is required (example: DATABASE_URL=postgres://user:password@localhost:5432/app)
  DIRECT_URL: is neither a postgres:// URL nor key=value pairs (example: DIRECT_URL=postgres://user:password@db.internal:5432/app)
  FORGEWIRE_API_KEY: is too short to be safe: 5 bytes, at least 16 are needed; to run with the server API disabled, set it to none (example: FORGEWIRE_API_KEY=$(openssl rand -hex 32))
  FORGEWIRE_TOKEN_SECRET: is required; to accept no tokens, set it to none and FORGEWIRE_ALLOW_ANONYMOUS to true (example: FORGEWIRE_TOKEN_SECRET=$(openssl rand -hex 32))
  FORGEWIRE_LOG_FROMAT: is not a variable of Forgewire; did you mean FORGEWIRE_LOG_FORMAT?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// A wrong DATABASE_URL is complained about once, though the listener's falls
// back to it.
func TestFallbackIsNotBlamed(t *testing.T) {
	_, err := config.Load(environ("DATABASE_URL=nonsense"))
	if m, _ := errors.AsType[config.Mistakes](err); len(m) != 1 || m[0].Variable != "DATABASE_URL" {
		t.Errorf("got %v", err)
	}
}

func TestUnknownVariables(t *testing.T) {
	for _, tt := range []struct{ set, complaint string }{
		{"FORGEWIRE_API_KYE=sesame", "FORGEWIRE_API_KYE: is not a variable of Forgewire; did you mean FORGEWIRE_API_KEY?"},
		{"FORGEWIRE_APIKEY=sesame", "did you mean FORGEWIRE_API_KEY?"},
		{"forgewire_api_key=sesame", "did you mean FORGEWIRE_API_KEY?"},
		{"FORGEWIRE_TOKENSECRET=sesame", "did you mean FORGEWIRE_TOKEN_SECRET?"},
		{"FORGEWIRE_PORT=9000", "did you mean PORT?"},
		{"FORGEWIRE_DATABASE_URL=sesame", "did you mean DATABASE_URL?"},
		{"FORGEWIRE_MAX_CONNECTION=1", "did you mean FORGEWIRE_MAX_CONNECTIONS?"},
		{"FORGEWIRE_COLOUR=sesame", "FORGEWIRE_COLOUR: is not a variable of Forgewire"},
		{"FORGEWIRE_=sesame", "FORGEWIRE_: is not a variable of Forgewire"},
		{"OTHER_FORGEWIRE_X=1", ""},
		{"FORGEWIRE=1", ""},
		// Kubernetes, for a Service named forgewire or forgewire-web.
		{"FORGEWIRE_SERVICE_HOST=10.0.0.1", ""},
		{"FORGEWIRE_SERVICE_PORT=80", ""},
		{"FORGEWIRE_SERVICE_PORT_HTTP=80", ""},
		{"FORGEWIRE_PORT=tcp://10.0.0.1:80", ""},
		{"FORGEWIRE_PORT_80_TCP=tcp://10.0.0.1:80", ""},
		{"FORGEWIRE_PORT_80_TCP_ADDR=10.0.0.1", ""},
		{"FORGEWIRE_WEB_PORT_80_TCP_PROTO=tcp", ""},
	} {
		_, err := config.Load(environ(tt.set))
		switch {
		case tt.complaint == "" && err == nil:
		case tt.complaint == "" || err == nil:
			t.Errorf("%s: got %v", tt.set, err)
		case !strings.Contains(err.Error()+"\n", tt.complaint+"\n") && !strings.HasSuffix(err.Error(), tt.complaint):
			t.Errorf("%s: got %v", tt.set, err)
		case strings.Contains(err.Error(), "sesame"):
			t.Errorf("%s: the value is in %v", tt.set, err)
		}
	}
}

func TestLoadOnly(t *testing.T) {
	cfg, err := config.LoadOnly([]string{"DATABASE_URL=postgres://db/app"}, "DATABASE_URL")
	if err != nil || cfg.DatabaseURL != "postgres://db/app" {
		t.Errorf("got %v, %v", cfg, err)
	}
	if _, err := config.LoadOnly(nil, "DATABASE_URL"); err == nil {
		t.Error("DATABASE_URL is demanded")
	}
	if _, err := config.LoadOnly([]string{"PORT=x"}); err == nil {
		t.Error("what is set is checked")
	}
}

// The process environment and a later duplicate: only what was passed counts,
// and of two the last.
func TestLoadReadsOnlyItsArgument(t *testing.T) {
	t.Setenv("PORT", "1")
	t.Setenv("VALKEY_URL", "nonsense")
	cfg, err := config.Load(environ("PORT=2", "PORT=3"))
	if err != nil || cfg.Port != 3 || cfg.ValkeyURL != "" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	const word = "sesame-sesame-sesame"
	cfg, err := config.Load([]string{
		"DATABASE_URL=postgres://u:" + word + "@db/a", "LISTEN_DATABASE_URL=postgres://u:" + word + "@direct/a",
		"VALKEY_URL=redis://:" + word + "@cache", "FORGEWIRE_API_KEY=" + word, "FORGEWIRE_TOKEN_SECRET=" + word,
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3v", "% x", "%T%[1]v"} {
		shown["config "+verb] = fmt.Sprintf(verb, cfg)
		shown["struct "+verb] = fmt.Sprintf(verb, *cfg)
		shown["secret "+verb] = fmt.Sprintf(verb, cfg.APIKey)
		shown["slice "+verb] = fmt.Sprintf(verb, []config.Secret{cfg.DatabaseURL})
		shown["map "+verb] = fmt.Sprintf(verb, map[config.Secret]config.Config{cfg.DatabaseURL: *cfg})
		shown["error "+verb] = fmt.Sprintf(verb, fmt.Errorf("dial %s", cfg.DatabaseURL))
	}
	shown["Sprint"] = fmt.Sprint(cfg, *cfg, cfg.TokenSecret)
	for name, v := range map[string]any{"config": cfg, "struct": *cfg, "secret": cfg.APIKey, "map": map[string]config.Secret{"k": cfg.APIKey}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown["json "+name] = string(text)
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "k", v, slog.Group("g", "k", v))
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "k", v, slog.Group("g", "k", v))
		shown["slog "+name] = b.String()
	}
	if text, err := xml.Marshal(cfg.APIKey); err != nil {
		t.Fatal(err)
	} else {
		shown["xml"] = string(text)
	}
	for how, text := range shown {
		for _, form := range []string{word, fmt.Sprintf("%x", word), fmt.Sprintf("%X", word), fmt.Sprintf("% x", word), "sesame"} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows it: %s", how, text)
			}
		}
		if text == "" {
			t.Errorf("%s is empty", how)
		}
	}
	if got := fmt.Sprintf("%v|%#v|%q", config.Secret(""), config.Secret(""), config.Secret("x")); got != `|""|"[secret]"` {
		t.Errorf("placeholders %s", got)
	}
}

// The identity provider of the dashboard has all of its variables, or none.
func TestAdminProviderIsWhole(t *testing.T) {
	environ := []string{"DATABASE_URL=postgres://db", "FORGEWIRE_API_KEY=none", "FORGEWIRE_TOKEN_SECRET=sesame sesame sesame"}
	all := []string{"FORGEWIRE_ADMIN_OIDC_ISSUER=https://accounts.example.com", "FORGEWIRE_ADMIN_OIDC_CLIENT_ID=forgewire", "FORGEWIRE_ADMIN_OIDC_CLIENT_SECRET=x",
		"FORGEWIRE_ADMIN_OIDC_REDIRECT_URL=https://push.example.com/admin/login/callback", "FORGEWIRE_ADMIN_OIDC_ALLOWED=ada@example.com, ,*@ops.example.com"}
	cfg, err := config.Load(append(environ, all...))
	if err != nil || len(cfg.AdminOIDCAllowed) != 2 || cfg.AdminOIDCAllowed[1] != "*@ops.example.com" {
		t.Errorf("%v, %v", cfg, err)
	}
	for i := range all {
		without := append(append(append([]string{}, environ...), all[:i]...), all[i+1:]...)
		name, _, _ := strings.Cut(all[i], "=")
		if _, err := config.Load(without); err == nil || !strings.Contains(err.Error(), name+": is required with the other") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
