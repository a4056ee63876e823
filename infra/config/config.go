package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is everything the environment decides about one replica.
//
// Tags: env and envDefault are caarlos0/env's. Ours are
//
//	required  Load fails without it
//	aliases   other variables that are taken, in order, where env is absent
//	fallback  the variable whose value stands in where all of those are absent
//	min, max  bounds, both allowed, written as the variable itself is
//	oneof     the allowed values, separated by spaces
//	meaning   the line in the help
//	example   a right value, for help and errors
type Config struct {
	Port int `env:"PORT" envDefault:"8080" min:"1" max:"65535" meaning:"TCP port to listen on" example:"8080"`

	MetricsPort int `env:"FORGEWIRE_METRICS_PORT" envDefault:"0" min:"0" max:"65535" meaning:"TCP port on which /metrics needs no key, for a scraper in the private network; 0 serves it on PORT, with the API key" example:"9090"`

	// Postgres and Valkey.

	DatabaseURL       Secret `env:"DATABASE_URL" required:"true" meaning:"Postgres, as a URL or as key=value pairs" example:"postgres://user:password@localhost:5432/app"`
	ListenDatabaseURL Secret `env:"LISTEN_DATABASE_URL" aliases:"DIRECT_URL DIRECT_DATABASE_URL" fallback:"DATABASE_URL" meaning:"Postgres for the one connection that listens: needed where DATABASE_URL leads to a pooler in transaction mode" example:"postgres://user:password@db.internal:5432/app"`
	LogDatabaseURLs   Secret `env:"FORGEWIRE_LOG_DATABASE_URLS" meaning:"further Postgres databases over which, and that of DATABASE_URL, channels are spread: comma separated, direct (no pooler in transaction mode), the same list on every replica; see docs/scaling.md. A replica has up to 21 connections to each" example:"postgres://user:password@log1.internal:5432/log,postgres://user:password@log2.internal:5432/log"`
	ValkeyURL         Secret `env:"VALKEY_URL" meaning:"Valkey or Redis for the cache; without it each replica keeps a small cache of its own" example:"redis://localhost:6379/0"`

	DBPoolMin int `env:"FORGEWIRE_DB_POOL_MIN" envDefault:"20" min:"0" max:"10000" meaning:"connections to Postgres that a replica keeps once it is in use, at most FORGEWIRE_DB_POOL_MAX" example:"20"`
	DBPoolMax int `env:"FORGEWIRE_DB_POOL_MAX" envDefault:"35" min:"1" max:"10000" meaning:"connections to Postgres for requests; a replica has up to 9 more, for publishing, listening and who leads an answer" example:"35"`

	// Who may do what. An empty APIKey means that the server API is disabled,
	// never that it is open; an empty TokenSecret means that no token is valid.

	APIKey         Secret   `env:"FORGEWIRE_API_KEY" required:"true" meaning:"key of the server API (header X-API-Key), at least 16 characters; \"none\" disables the server API" example:"$(openssl rand -hex 32)"`
	TokenSecret    Secret   `env:"FORGEWIRE_TOKEN_SECRET" required:"true" meaning:"secret that client tokens are signed with (HMAC), at least 16 bytes, better 32; \"none\" accepts none that are; not required with a public key or a key set" example:"$(openssl rand -hex 32)"`
	TokenPublicKey string   `env:"FORGEWIRE_TOKEN_PUBLIC_KEY" meaning:"public key that client tokens are verified with, in PEM (RSA, ECDSA or Ed25519)" example:"$(cat public.pem)"`
	TokenJWKSURL   string   `env:"FORGEWIRE_TOKEN_JWKS_URL" meaning:"JSON Web Key Set that client tokens are verified with; https, or http inside a private network. For several, comma separated, an issuer (iss) and a space before each, whose tokens alone it then verifies" example:"https://auth.example.com/.well-known/jwks.json"`
	TokenAudience  string   `env:"FORGEWIRE_TOKEN_AUDIENCE" meaning:"audience (aud) that a client token must name" example:"forgewire"`
	TokenIssuer    string   `env:"FORGEWIRE_TOKEN_ISSUER" meaning:"issuer (iss) that a client token must name" example:"https://auth.example.com/"`
	AllowAnonymous bool     `env:"FORGEWIRE_ALLOW_ANONYMOUS" envDefault:"false" meaning:"clients without a token may connect" example:"true"`
	AllowedOrigins []string `env:"FORGEWIRE_ALLOWED_ORIGINS" meaning:"hosts whose pages may connect besides our own, comma separated, * as wildcard" example:"app.example.com,*.example.org"`

	AdminPassword Secret `env:"FORGEWIRE_ADMIN_PASSWORD" meaning:"password of the dashboard at /admin, at least 12 bytes; without one, and without an identity provider, there is no dashboard" example:"$(openssl rand -base64 18)"`

	AdminOIDCIssuer       string   `env:"FORGEWIRE_ADMIN_OIDC_ISSUER" meaning:"identity provider (OpenID Connect) for the dashboard, beside or in place of the password; needs the four variables below" example:"https://accounts.google.com"`
	AdminOIDCClientID     string   `env:"FORGEWIRE_ADMIN_OIDC_CLIENT_ID" meaning:"what the provider calls this dashboard" example:"forgewire"`
	AdminOIDCClientSecret Secret   `env:"FORGEWIRE_ADMIN_OIDC_CLIENT_SECRET" meaning:"the secret that goes with it" example:"GOCSPX-..."`
	AdminOIDCRedirectURL  string   `env:"FORGEWIRE_ADMIN_OIDC_REDIRECT_URL" meaning:"where the provider sends browsers back to: /admin/login/callback, as they reach it" example:"https://push.example.com/admin/login/callback"`
	AdminOIDCAllowed      []string `env:"FORGEWIRE_ADMIN_OIDC_ALLOWED" meaning:"who may see the dashboard, comma separated: addresses of e-mail that the provider has verified, * as wildcard, or the sub of a user" example:"ada@example.com,*@ops.example.com"`

	// Namespaces is carried as it came; package realtime parses it.
	Namespaces string `env:"FORGEWIRE_NAMESPACES" meaning:"channel namespaces: JSON, or the path of a JSON file" example:"/etc/forgewire/namespaces.json"`

	// The team's own backend. Hooks is carried as it came; package realtime parses it. It holds secrets.

	Hooks         Secret `env:"FORGEWIRE_HOOKS" meaning:"endpoints that decide over what clients do: JSON, or the path of a JSON file" example:"/etc/forgewire/hooks.json"`
	WebhookURL    Secret `env:"FORGEWIRE_WEBHOOK_URL" meaning:"where events (occupied, vacated, connected, disconnected) are sent; without it nowhere" example:"https://app.example.com/webhooks/forgewire"`
	WebhookSecret Secret `env:"FORGEWIRE_WEBHOOK_SECRET" meaning:"secret that webhooks are signed with (HMAC), at least 16 bytes, better 32; needed with FORGEWIRE_WEBHOOK_URL" example:"$(openssl rand -hex 32)"`
	// Language models. Upstreams is carried as it came; package llm parses it.

	UpstreamURL   Secret        `env:"FORGEWIRE_UPSTREAM_URL" meaning:"OpenAI-compatible server behind /v1/chat/completions and its like, up to and including /v1; without one there are no such routes" example:"https://api.openai.com/v1"`
	UpstreamKey   Secret        `env:"FORGEWIRE_UPSTREAM_KEY" meaning:"key for FORGEWIRE_UPSTREAM_URL; passthrough sends the caller's own" example:"sk-..."`
	Upstreams     Secret        `env:"FORGEWIRE_UPSTREAMS" meaning:"several upstreams, with aliases and prices: JSON, or the path of a JSON file" example:"/etc/forgewire/upstreams.json"`
	LLMCache      string        `env:"FORGEWIRE_LLM_CACHE" envDefault:"all" oneof:"all deterministic off" meaning:"which answers are cached: all, or those to requests with temperature 0 or a seed, or none" example:"deterministic"`
	TTLPrompt     time.Duration `env:"FORGEWIRE_TTL_PROMPT_RESPONSE" envDefault:"24h" min:"1s" max:"720h" meaning:"how long answers are cached" example:"24h"`
	TTLEvaluation time.Duration `env:"FORGEWIRE_TTL_EVALUATION_RESULT" envDefault:"12h" min:"1s" max:"720h" meaning:"the same, of the class evaluation_result" example:"12h"`
	TTLSystem     time.Duration `env:"FORGEWIRE_TTL_SYSTEM_PROMPT" envDefault:"168h" min:"1s" max:"720h" meaning:"the same, of the class system_prompt" example:"168h"`

	// Limits and times.

	CacheLocalBytes     int64         `env:"FORGEWIRE_CACHE_LOCAL_BYTES" envDefault:"33554432" min:"1048576" meaning:"memory that one replica gives to cached values, in bytes" example:"33554432"`
	CacheMaxConnections int           `env:"FORGEWIRE_CACHE_MAX_CONNECTIONS" envDefault:"50" min:"1" max:"1000" meaning:"connections to one Valkey server that a replica may open (it needs 2)" example:"50"`
	MaxConnections      int           `env:"FORGEWIRE_MAX_CONNECTIONS" envDefault:"15000" min:"1" max:"1000000" meaning:"client connections that one replica accepts" example:"15000"`
	MaxUserConnections  int           `env:"FORGEWIRE_MAX_USER_CONNECTIONS" envDefault:"0" min:"0" max:"1000000" meaning:"connections of one user to one replica; 0 for no limit" example:"20"`
	MaxIPConnections    int           `env:"FORGEWIRE_MAX_IP_CONNECTIONS" envDefault:"0" min:"0" max:"1000000" meaning:"connections of one address (of IPv6, a /64) to one replica; 0 for no limit" example:"100"`
	MaxIPHandshakes     int           `env:"FORGEWIRE_MAX_IP_HANDSHAKES" envDefault:"0" min:"0" max:"1000000" meaning:"new connections of one address to one replica a second, twice that at once; 0 for no limit" example:"10"`
	MaxIPRequests       int           `env:"FORGEWIRE_MAX_IP_REQUESTS" envDefault:"0" min:"0" max:"10000000" meaning:"requests of one address (of IPv6, a /64) to prompts, data sets, evaluations and runs a minute, over all replicas with VALKEY_URL, else of each one; 0 for no limit" example:"600"`
	ClientIPHeader      string        `env:"FORGEWIRE_CLIENT_IP_HEADER" meaning:"header in which the proxy in front says who connects, and which it overwrites; of X-Forwarded-For the last address counts; without it the peer's address counts" example:"Fly-Client-IP"`
	TrustedProxies      []string      `env:"FORGEWIRE_TRUSTED_PROXIES" meaning:"networks from which proxies connect, comma separated: from others FORGEWIRE_CLIENT_IP_HEADER does not count, and of X-Forwarded-For the last address that is in none of them is the client's; without it private and link-local addresses are proxies" example:"10.0.0.0/8,203.0.113.7/32"`
	CommandRate         int           `env:"FORGEWIRE_COMMAND_RATE" envDefault:"100" min:"0" max:"1000000" meaning:"commands of one client a second, on average; 0 for no limit" example:"100"`
	MaxPublicationBytes int           `env:"FORGEWIRE_MAX_PUBLICATION_BYTES" envDefault:"1048576" min:"1024" max:"16777216" meaning:"largest publication, in bytes" example:"1048576"`
	RetentionAge        time.Duration `env:"FORGEWIRE_RETENTION_AGE" envDefault:"24h" min:"1m" meaning:"how long messages are kept" example:"24h"`
	RetentionBytes      int64         `env:"FORGEWIRE_RETENTION_BYTES" envDefault:"1073741824" min:"16777216" meaning:"how large the log may grow before its oldest messages go, in bytes" example:"1073741824"`
	RunRetention        time.Duration `env:"FORGEWIRE_RUN_RETENTION" envDefault:"720h" min:"24h" meaning:"how long runs, one line for each request to a model, are kept" example:"720h"`
	BodyRetention       time.Duration `env:"FORGEWIRE_RUN_BODY_RETENTION" envDefault:"168h" min:"0s" meaning:"how long what was asked and answered is kept, of runs whose key or request asks for that; 0 keeps none" example:"24h"`
	MaxConnectionAge    time.Duration `env:"FORGEWIRE_MAX_CONNECTION_AGE" envDefault:"0s" min:"0s" meaning:"age by which clients are told to reconnect, spread over the last tenth of it: less than the time after which a platform cuts connections; 0 lets them live" example:"55m"`
	IdleRelease         time.Duration `env:"FORGEWIRE_IDLE_RELEASE" envDefault:"0s" min:"0s" meaning:"time without connections and requests after which a replica leaves the database alone until the next one comes, so that a serverless Postgres can sleep; 0 never" example:"5m"`
	ShutdownTimeout     time.Duration `env:"FORGEWIRE_SHUTDOWN_TIMEOUT" envDefault:"10s" min:"1ms" meaning:"longest time that a stopping replica takes to drain" example:"10s"`

	// Traces. The exporter and the SDK read the other OTEL_ variables themselves (headers, sampler, service name, …).

	TraceEndpoint string `env:"OTEL_EXPORTER_OTLP_ENDPOINT" aliases:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" meaning:"where OpenTelemetry traces go, over HTTP; without it there are none, unless OTEL_TRACES_EXPORTER=otlp" example:"http://localhost:4318"`
	TraceExporter string `env:"OTEL_TRACES_EXPORTER" oneof:"otlp none" meaning:"otlp sends traces, none does not, whatever else is set" example:"otlp"`
	TraceProtocol string `env:"OTEL_EXPORTER_OTLP_PROTOCOL" aliases:"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" oneof:"http/protobuf" meaning:"how traces are sent" example:"http/protobuf"`
	TraceDisabled bool   `env:"OTEL_SDK_DISABLED" meaning:"true switches traces off" example:"true"`

	// Logs.

	LogLevel  slog.Level `env:"FORGEWIRE_LOG_LEVEL" envDefault:"info" oneof:"debug info warn error" meaning:"least level that is logged" example:"info"`
	LogFormat string     `env:"FORGEWIRE_LOG_FORMAT" envDefault:"json" oneof:"json text" meaning:"shape of a log line" example:"json"`
}

// Load reads and checks what `serve` needs. environ has the shape of
// [os.Environ]. The error is a [Mistakes].
func Load(environ []string) (*Config, error) {
	var required []string
	for _, v := range variables() {
		if v.Required && !(v.Name == "FORGEWIRE_TOKEN_SECRET" && hasKeys(environ)) {
			required = append(required, v.Name)
		}
	}
	cfg, mistakes := load(environ, required)
	if cfg.TokenSecret == "" && !hasKeys(environ) && !cfg.AllowAnonymous && cfg.Hooks == "" && !mistakes.name("FORGEWIRE_TOKEN_SECRET", "FORGEWIRE_ALLOW_ANONYMOUS") {
		mistakes = append(mistakes, Mistake{
			Variable: "FORGEWIRE_ALLOW_ANONYMOUS",
			Problem:  "nobody could connect: FORGEWIRE_TOKEN_SECRET=none accepts no tokens, so clients without one must be allowed, or a hook must say who they are",
			Example:  "true",
		})
	}
	if cfg.MetricsPort != 0 && cfg.MetricsPort == cfg.Port {
		mistakes = append(mistakes, Mistake{Variable: "FORGEWIRE_METRICS_PORT", Problem: "is PORT: metrics without a key need a port of their own", Example: "9090"})
	}
	if (cfg.WebhookURL == "") != (cfg.WebhookSecret == "") && !mistakes.name("FORGEWIRE_WEBHOOK_URL", "FORGEWIRE_WEBHOOK_SECRET") {
		missing := Mistake{Variable: "FORGEWIRE_WEBHOOK_SECRET", Problem: "is required with FORGEWIRE_WEBHOOK_URL", Example: "$(openssl rand -hex 32)"}
		if cfg.WebhookURL == "" {
			missing = Mistake{Variable: "FORGEWIRE_WEBHOOK_URL", Problem: "is required with FORGEWIRE_WEBHOOK_SECRET", Example: "https://app.example.com/webhooks/forgewire"}
		}
		mistakes = append(mistakes, missing)
	}
	if sets := cfg.KeySets(); cfg.TokenIssuer != "" && len(sets) > 0 && sets[""] == "" {
		mistakes = append(mistakes, Mistake{Variable: "FORGEWIRE_TOKEN_ISSUER", Problem: "cannot be set where FORGEWIRE_TOKEN_JWKS_URL names issuers"})
	}
	if len(cfg.TrustedProxies) > 0 && cfg.ClientIPHeader == "" && !mistakes.name("FORGEWIRE_CLIENT_IP_HEADER") {
		mistakes = append(mistakes, Mistake{Variable: "FORGEWIRE_CLIENT_IP_HEADER", Problem: "is required with FORGEWIRE_TRUSTED_PROXIES", Example: "X-Forwarded-For"})
	}
	mistakes = append(mistakes, cfg.checkUpstreams()...)
	mistakes = append(mistakes, cfg.checkAdmin(mistakes)...)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return cfg, nil
}

// checkUpstreams looks at the variables of the models together.
func (c *Config) checkUpstreams() (mistakes Mistakes) {
	const example = "https://api.openai.com/v1"
	if c.UpstreamURL != "" && c.Upstreams != "" {
		mistakes = append(mistakes, Mistake{Variable: "FORGEWIRE_UPSTREAM_URL", Problem: "cannot be set beside FORGEWIRE_UPSTREAMS: list it there", Example: example})
	}
	if c.UpstreamKey != "" && c.UpstreamURL == "" {
		mistakes = append(mistakes, Mistake{Variable: "FORGEWIRE_UPSTREAM_URL", Problem: "is required beside FORGEWIRE_UPSTREAM_KEY", Example: example})
	}
	return mistakes
}

// checkAdmin demands all of the identity provider's variables, or none.
func (c *Config) checkAdmin(found Mistakes) (mistakes Mistakes) {
	all := []struct {
		name, example string
		set           bool
	}{
		{"FORGEWIRE_ADMIN_OIDC_ISSUER", "https://accounts.google.com", c.AdminOIDCIssuer != ""},
		{"FORGEWIRE_ADMIN_OIDC_CLIENT_ID", "forgewire", c.AdminOIDCClientID != ""},
		{"FORGEWIRE_ADMIN_OIDC_CLIENT_SECRET", "GOCSPX-...", c.AdminOIDCClientSecret != ""},
		{"FORGEWIRE_ADMIN_OIDC_REDIRECT_URL", "https://push.example.com/admin/login/callback", c.AdminOIDCRedirectURL != ""},
		{"FORGEWIRE_ADMIN_OIDC_ALLOWED", "ada@example.com,*@ops.example.com", len(c.AdminOIDCAllowed) > 0},
	}
	some := false
	for _, v := range all {
		some = some || v.set
	}
	for _, v := range all {
		if some && !v.set && !found.name(v.name) {
			mistakes = append(mistakes, Mistake{Variable: v.name, Problem: "is required with the other FORGEWIRE_ADMIN_OIDC_ variables", Example: v.example})
		}
	}
	return mistakes
}

// hasKeys reports whether tokens can be verified without a secret.
func hasKeys(environ []string) bool {
	given := split(environ)
	return strings.TrimSpace(given["FORGEWIRE_TOKEN_PUBLIC_KEY"]) != "" || strings.TrimSpace(given["FORGEWIRE_TOKEN_JWKS_URL"]) != ""
}

// LoadOnly is for the other commands: it demands no more than the named
// variables, yet whatever else is set is still checked.
func LoadOnly(environ []string, names ...string) (*Config, error) {
	cfg, mistakes := load(environ, names)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return cfg, nil
}

// load returns a usable struct in any case; fields with a mistake are zero.
func load(environ, required []string) (*Config, Mistakes) {
	given := split(environ)
	vars := variables()
	files, mistakes := readFiles(vars, given)
	resolved, source := resolve(vars, given)

	cfg := &Config{}
	unparsed := parse(cfg, resolved)

	for _, v := range vars {
		raw, set := resolved[v.Name]
		if path, ok := files[v.Name]; ok && path == "" {
			continue // its file was complained about
		}
		switch {
		case unparsed[v.field]:
			mistakes = append(mistakes, v.mistake(source[v.Name], v.notA(raw)))
		case !set && slices.Contains(required, v.Name):
			mistakes = append(mistakes, v.mistake(v.Name, "is required"+v.otherwise()))
		case source[v.Name] == v.fallback && v.fallback != "":
			// Checked, and complained about, where it came from.
		case set:
			if problem := v.check(cfg, raw, given[source[v.Name]]); problem != "" {
				if path := files[source[v.Name]]; path != "" {
					problem = fmt.Sprintf("in the file %q: %s", path, problem)
				}
				mistakes = append(mistakes, v.mistake(source[v.Name], problem))
			}
		}
	}
	cfg.tidy()
	return cfg, append(mistakes, unknown(vars, given)...)
}

// parse fills cfg and returns the names of the fields whose text is not of
// their type. The library's own messages quote the text, so they go no further.
func parse(cfg *Config, values map[string]string) map[string]bool {
	err := env.ParseWithOptions(cfg, env.Options{
		Environment: values,
		FuncMap: map[reflect.Type]env.ParserFunc{
			// The library reads an int as 32 bits.
			reflect.TypeFor[int](): func(s string) (any, error) { return strconv.Atoi(s) },
		},
	})
	failed := make(map[string]bool)
	all, _ := errors.AsType[env.AggregateError](err)
	for _, e := range all.Errors {
		if one, ok := errors.AsType[env.ParseError](e); ok {
			failed[one.Name] = true
		}
	}
	return failed
}

// tidy gives values their final form after they have been checked.
func (c *Config) tidy() {
	for _, s := range []*Secret{&c.APIKey, &c.TokenSecret} {
		if *s == none {
			*s = ""
		}
	}
	for _, list := range []*[]string{&c.AllowedOrigins, &c.AdminOIDCAllowed, &c.TrustedProxies} {
		*list = trimmed(*list)
	}
}

func trimmed(list []string) []string {
	kept := list[:0]
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

// split makes a map of environ. As in a shell, the last of two equal names
// counts.
func split(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			m[name] = value
		}
	}
	return m
}

// resolve finds for each variable the value that counts (its own, an alias's,
// the fallback's), without white space around it, and whose it is. An empty
// value is the same as none: platforms offer no other way to unset one.
func resolve(vars []Variable, given map[string]string) (values, source map[string]string) {
	values = make(map[string]string)
	source = make(map[string]string)
	for _, v := range vars {
		names := append([]string{v.Name}, v.Aliases...)
		if v.fallback != "" {
			names = append(names, v.fallback)
		}
		for _, name := range names {
			if value := strings.TrimSpace(given[name]); value != "" {
				values[v.Name], source[v.Name] = value, name
				break
			}
		}
	}
	return values, source
}

// Logs are the URLs of the further logs.
func (c *Config) Logs() []string { return splitLogs(c.LogDatabaseURLs.Reveal()) }

// KeySets returns the addresses of key sets by issuer, "" for every issuer.
func (c *Config) KeySets() map[string]string {
	sets, _ := splitKeySets(c.TokenJWKSURL)
	return sets
}

// splitKeySets also returns what is wrong with how they are listed.
func splitKeySets(text string) (sets map[string]string, problem string) {
	sets = map[string]string{}
	parts := trimmed(strings.Split(text, ","))
	for _, part := range parts {
		issuer, address, both := strings.Cut(part, " ")
		if !both {
			issuer, address = "", part
		}
		switch _, twice := sets[issuer]; {
		case issuer == "" && len(parts) > 1:
			return nil, fmt.Sprintf("does not say whose tokens %q verifies: of several key sets, each has its issuer (iss) and a space before it", address)
		case twice:
			return nil, fmt.Sprintf("has the issuer %q twice", issuer)
		}
		sets[issuer] = strings.TrimSpace(address)
	}
	return sets, ""
}

// splitLogs divides where an address begins: a comma may also stand inside of one, between hosts.
func splitLogs(text string) (urls []string) {
	for part := range strings.SplitSeq(text, ",") {
		if last := len(urls) - 1; last >= 0 && !strings.Contains(part, "://") {
			urls[last] += "," + part
			continue
		}
		if part = strings.TrimSpace(part); part != "" {
			urls = append(urls, part)
		}
	}
	return urls
}

// Traces says whether traces are to be sent.
func (c *Config) Traces() bool {
	return !c.TraceDisabled && c.TraceExporter != "none" && (c.TraceEndpoint != "" || c.TraceExporter == "otlp")
}
