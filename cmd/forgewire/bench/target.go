package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Target is a running deployment, to be measured in place of one of our own.
type Target struct {
	URLs      []string // of its replicas, or of a load balancer
	APIKey    string   // of the server API
	Token     string   // of its subscribers, if it has no anonymous ones
	Key       string   // of /v1
	Model     string   // what LLM clients ask for; "": there are none
	Database  string   // for publishers in SQL; "": there are none
	Namespace string   // whose channels have presence; "": it is not measured
}

// Given tells whether there is one.
func (t Target) Given() bool { return len(t.URLs) > 0 }

// String is its first URL, without a password.
func (t Target) String() string {
	if !t.Given() {
		return "a private PostgreSQL and replicas on this machine"
	}
	return withoutPassword(strings.Join(t.URLs, ", "))
}

// parse checks the URLs.
func (t Target) parse() ([]*url.URL, error) {
	var out []*url.URL
	for _, text := range t.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not the URL of a deployment, such as http://localhost:8080", withoutPassword(text))
		}
		u.Path = strings.TrimSuffix(u.Path, "/")
		out = append(out, u)
	}
	return out, nil
}

// errNeedsDevstack is why a benchmark leaves a deployment alone.
type errNeedsDevstack struct{ why string }

func (e errNeedsDevstack) Error() string {
	return "it needs a devstack, so run it without --url: " + e.why
}

// unmeasurable tells whether an error says that a deployment cannot be measured so, which is no failure.
func unmeasurable(err error) bool { return errors.As(err, new(errNeedsDevstack)) }

// dial connects to where base is, with TLS for https.
func dial(ctx context.Context, base *url.URL) (net.Conn, error) {
	port := base.Port()
	if port == "" {
		port = base.Scheme // a service's name does as well
	}
	address := net.JoinHostPort(base.Hostname(), port)
	var conn net.Conn
	var err error
	if base.Scheme == "https" {
		conn, err = new(tls.Dialer).DialContext(ctx, "tcp", address)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", base.Host, err)
	}
	return conn, nil
}
