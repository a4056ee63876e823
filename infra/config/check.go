package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	none         = "none" // the value that switches a required secret off
	minSecretLen = 16
	minPassword  = 12 // of the dashboard, whose attempts are limited
)

// check returns what is wrong with a value that has the right type, or "".
// raw is the trimmed text, given the text as it came.
func (v Variable) check(cfg *Config, raw, given string) string {
	field := reflect.ValueOf(cfg).Elem().FieldByName(v.field)
	switch value := field.Interface().(type) {
	case Secret:
		return v.checkSecret(value.Reveal(), given)
	case []string:
		switch v.Name {
		case "FORGEWIRE_ADMIN_OIDC_ALLOWED":
			return checkAllowed(value)
		case "FORGEWIRE_TRUSTED_PROXIES":
			return checkNetworks(value)
		}
		return checkOrigins(value)
	}
	switch v.Name {
	case "FORGEWIRE_TOKEN_JWKS_URL":
		return checkKeySets(raw)
	case "FORGEWIRE_ADMIN_OIDC_ISSUER":
		return checkKeySet(raw)
	case "FORGEWIRE_ADMIN_OIDC_REDIRECT_URL":
		return checkRedirect(raw)
	case "FORGEWIRE_CLIENT_IP_HEADER":
		return checkHeader(raw)
	}
	if !v.inBounds(field) || len(v.oneof) > 0 && !slices.Contains(v.oneof, strings.ToLower(raw)) {
		return v.notA(raw)
	}
	if len(v.oneof) > 0 && field.Kind() == reflect.String {
		field.SetString(strings.ToLower(raw))
	}
	return ""
}

func (v Variable) checkSecret(value, given string) string {
	switch v.Name {
	case "DATABASE_URL", "LISTEN_DATABASE_URL":
		return checkPostgres(value)
	case "FORGEWIRE_LOG_DATABASE_URLS":
		return checkLogs(value)
	case "VALKEY_URL":
		return checkValkey(value)
	case "FORGEWIRE_HOOKS":
		return "" // whoever parses it knows more
	case "FORGEWIRE_WEBHOOK_URL":
		return checkWebhook(value)
	case "FORGEWIRE_UPSTREAM_URL", "FORGEWIRE_UPSTREAMS":
		return "" // package llm parses them
	case "FORGEWIRE_ADMIN_OIDC_CLIENT_SECRET":
		return "" // how long it is is the provider's to say
	case "FORGEWIRE_UPSTREAM_KEY":
		if strings.IndexFunc(given, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
			return "may hold only printable ASCII characters and no white space"
		}
		return "" // how long it is is not ours to say
	case "FORGEWIRE_API_KEY":
		// It travels in a header.
		if i := strings.IndexFunc(given, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			return "may hold only printable ASCII characters and no white space"
		}
	}
	// Trimming it in silence would leave the other side, which signs with it,
	// with another secret.
	if given != value {
		return "begins or ends with white space"
	}
	least := minSecretLen
	if v.Name == "FORGEWIRE_ADMIN_PASSWORD" {
		least = minPassword
	}
	if (value != none || v.Name == "FORGEWIRE_ADMIN_PASSWORD") && len(value) < least {
		return fmt.Sprintf("is too short to be safe: %d bytes, at least %d are needed", len(value), least) + v.otherwise()
	}
	return ""
}

// inBounds compares numbers and durations with the tags. A bound that cannot be
// read is a mistake in Config, which the tests find.
func (v Variable) inBounds(field reflect.Value) bool {
	if !field.CanInt() {
		return true
	}
	n := field.Int()
	return (v.min == "" || n >= v.bound(v.min)) && (v.max == "" || n <= v.bound(v.max))
}

func (v Variable) bound(text string) int64 {
	if v.kind == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(fmt.Sprintf("config: bound of %s: %v", v.Name, err))
		}
		return int64(d)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("config: bound of %s: %v", v.Name, err))
	}
	return n
}

// checkPostgres asks the driver itself (which also looks at PGSSLMODE and its
// like, and at the files that a connection string names), but in the driver's words an error may
// repeat the password, so the words are ours.
func checkPostgres(text string) string {
	before, _, _ := strings.Cut(text, "=")
	if scheme, _, isURL := strings.Cut(before, "://"); isURL {
		if scheme != "postgres" && scheme != "postgresql" {
			return "must begin with postgres:// or postgresql://"
		}
		if _, err := url.Parse(text); err != nil {
			return "is not a valid URL: is the port a number, and is each of @ : / ? # % in the password percent-encoded?"
		}
	} else if before == text {
		return "is neither a postgres:// URL nor key=value pairs"
	}
	if _, err := pgxpool.ParseConfig(text); err != nil {
		return "is not accepted by the Postgres driver: look at its parameters (sslmode and certificate files, ports, pool_…)"
	}
	return ""
}

func checkLogs(text string) string {
	for i, u := range splitLogs(text) {
		if problem := checkPostgres(u); problem != "" {
			return fmt.Sprintf("has something wrong in its address %d, which %s", i+1, problem)
		}
	}
	return ""
}

func checkValkey(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "is not a valid URL: is the port a number, and is each of @ : / ? # % in the password percent-encoded?"
	}
	switch u.Scheme {
	case "redis", "rediss", "valkey", "valkeys":
		if u.Hostname() == "" {
			return "names no host"
		}
		if db := strings.Trim(u.Path, "/"); db != "" {
			if n, err := strconv.Atoi(db); err != nil || n < 0 {
				return "ends with something that is not the number of a database"
			}
		}
	case "unix":
		if u.Path == "" {
			return "names no socket"
		}
	default:
		return "must begin with redis://, rediss:// (TLS), valkey://, valkeys:// (TLS) or unix://"
	}
	return ""
}

func checkKeySets(text string) string {
	sets, problem := splitKeySets(text)
	for issuer, address := range sets {
		if problem = checkKeySet(address); problem != "" {
			if issuer != "" {
				problem = fmt.Sprintf("has something wrong in the address of %q, which %s", issuer, problem)
			}
			break
		}
	}
	return problem
}

// checkKeySet takes the address of a key set. Who can change what comes from there can sign tokens, so it
// must be https, unless the way leads through a private network alone.
func checkKeySet(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || strings.ContainsAny(text, " \t\r\n"):
		return "is not a valid URL"
	case u.User != nil:
		return "must not have a user or a password in it"
	case u.Scheme != "https" && (u.Scheme != "http" || !private(u.Hostname())):
		return "must begin with https:// (http:// is taken only for a private address, or a host without a dot or under .internal)"
	}
	return ""
}

func private(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".internal")
}

func checkHeader(name string) string {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return "is not the name of a header"
		}
	}
	return ""
}

// checkNetworks takes networks as they are written where Go compares: one of IPv4 in the form of IPv6 has no address in it.
func checkNetworks(list []string) string {
	for _, text := range trimmed(slices.Clone(list)) {
		if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Is4In6() {
			return fmt.Sprintf("%q is not a network: write an address and how many of its bits count, as 10.0.0.0/8", text)
		}
	}
	return ""
}

func checkWebhook(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "" {
		return "is not an http:// or https:// URL"
	}
	return ""
}

// checkRedirect takes the address of the dashboard's login, which is https but on the machine itself: the code comes there.
func checkRedirect(text string) string {
	if problem := checkKeySet(text); problem != "" {
		return problem
	}
	if u, err := url.Parse(text); err != nil || u.Path != "/admin/login/callback" || u.RawQuery != "" || u.Fragment != "" {
		return "must end with /admin/login/callback"
	}
	return ""
}

// checkAllowed takes patterns of addresses of e-mail, and names of users that have no wildcard.
func checkAllowed(list []string) string {
	for _, p := range trimmed(slices.Clone(list)) {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Sprintf("%q is not a pattern: a [ is not closed", p)
		}
		_, domain, isAddress := strings.Cut(p, "@")
		if isAddress && strings.Trim(domain, "*?.") == "" || !isAddress && strings.ContainsAny(p, "*?[") {
			return fmt.Sprintf("%q would let in strangers: a wildcard needs an @ and a domain behind it", p)
		}
	}
	return ""
}

// checkOrigins takes patterns of hosts, with a port where it is not the
// scheme's own.
func checkOrigins(patterns []string) string {
	for _, p := range patterns {
		p = strings.TrimSpace(p)
		if strings.ContainsAny(p, "/ ") {
			return fmt.Sprintf("%q is not a host: write only the host, and a port where it is not the usual one, without https:// and without a path", p)
		}
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Sprintf("%q is not a pattern: a [ is not closed", p)
		}
		if strings.HasSuffix(p, ":") {
			return fmt.Sprintf("%q ends with a colon but has no port", p)
		}
	}
	return ""
}
