package realtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Bounds of a hook.
const (
	defaultHookTimeout = time.Second
	maxHookTimeout     = 30 * time.Second
	maxHookCalls       = 256 // under way at once, of one hook on this replica
	maxHookReply       = 1 << 20
)

// Hooks are the endpoints of a team's backend that decide over what clients do. What they are asked and what
// they answer has the shapes of Centrifugo's proxies. A hook that is nil is not configured.
type Hooks struct {
	connect    *hook
	refresh    *hook
	subscribe  *hook
	subRefresh *hook
	publish    *hook
	rpc        *hook
}

// hook is one endpoint. All of it is fixed but slots.
type hook struct {
	name    string
	url     string
	timeout time.Duration
	headers []string    // of the client's handshake, which are forwarded; canonical
	static  http.Header // sent with every call
	meta    bool        // the connection's meta is sent too
	client  *http.Client
	slots   chan struct{} // one for each call under way
}

// hookOptions are a hook's, as they are written. The names are Centrifugo's.
type hookOptions struct {
	Endpoint              string            `json:"endpoint"`
	Timeout               Duration          `json:"timeout"`
	HTTPHeaders           []string          `json:"http_headers"`
	StaticHeaders         map[string]string `json:"static_headers"`
	IncludeConnectionMeta bool              `json:"include_connection_meta"`
}

// ParseHooks reads FORGEWIRE_HOOKS: JSON, or the path of a file with JSON.
//
//	{"connect": {"endpoint": "http://app:3000/connect", "timeout": "1s", "http_headers": ["Cookie"]}, "rpc": {…}}
//
// Keys it does not know are an error, with the line. No error quotes a value: endpoints and headers hold
// secrets.
func ParseHooks(text string) (*Hooks, error) {
	h := &Hooks{}
	data := []byte(strings.TrimSpace(text))
	if len(data) == 0 {
		return h, nil
	}
	if data[0] != '{' {
		var err error
		var path *fs.PathError
		if data, err = os.ReadFile(string(data)); errors.As(err, &path) {
			return nil, fmt.Errorf("hooks: neither JSON nor the path of a file that can be read: %w", path.Err)
		} else if err != nil {
			return nil, fmt.Errorf("read the hooks: %w", err)
		}
	}
	var file struct {
		Connect    json.RawMessage `json:"connect"`
		Refresh    json.RawMessage `json:"refresh"`
		Subscribe  json.RawMessage `json:"subscribe"`
		SubRefresh json.RawMessage `json:"sub_refresh"`
		Publish    json.RawMessage `json:"publish"`
		RPC        json.RawMessage `json:"rpc"`
	}
	if err := strict("hooks", data, data, &file); err != nil {
		return nil, err
	}
	for _, one := range []struct {
		name string
		raw  json.RawMessage
		into **hook
	}{
		{"connect", file.Connect, &h.connect}, {"refresh", file.Refresh, &h.refresh},
		{"subscribe", file.Subscribe, &h.subscribe}, {"sub_refresh", file.SubRefresh, &h.subRefresh},
		{"publish", file.Publish, &h.publish}, {"rpc", file.RPC, &h.rpc},
	} {
		if one.raw == nil {
			continue
		}
		o := hookOptions{Timeout: Duration(defaultHookTimeout)}
		if err := strict("hooks", data, one.raw, &o); err != nil {
			return nil, err
		}
		if why := o.check(); why != "" {
			return nil, fmt.Errorf("hooks, line %d: %q: %s", lineOf(data, one.raw, 0), one.name, why)
		}
		*one.into = newHook(one.name, o)
	}
	return h, nil
}

// check says what is wrong, or "".
func (o hookOptions) check() string {
	u, err := url.Parse(o.Endpoint)
	switch {
	case o.Endpoint == "":
		return "endpoint is missing"
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "":
		return "endpoint is not an http:// or https:// URL"
	case o.Timeout <= 0 || time.Duration(o.Timeout) > maxHookTimeout:
		return fmt.Sprintf("timeout is not more than 0 and at most %v", maxHookTimeout)
	}
	for _, name := range o.HTTPHeaders {
		if why := checkHeader(name); why != "" {
			return "http_headers: " + why
		}
	}
	for name, value := range o.StaticHeaders {
		if why := checkHeader(name); why != "" {
			return "static_headers: " + why
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return fmt.Sprintf("static_headers: the value of %q has a control character", name)
		}
	}
	return ""
}

// ownHeaders are those that belong to one connection or to the call itself.
var ownHeaders = []string{"Accept-Encoding", "Connection", "Content-Length", "Content-Type", "Host", "Keep-Alive",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// checkHeader says why a header's name cannot be one that a hook is sent, or "".
func checkHeader(name string) string {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
	if !plain {
		return fmt.Sprintf("%q is not the name of a header", name)
	}
	if slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, "Sec-Websocket-") {
		return fmt.Sprintf("%q belongs to one connection and cannot be forwarded", name)
	}
	return ""
}

func newHook(name string, o hookOptions) *hook {
	h := &hook{name: name, url: o.Endpoint, timeout: time.Duration(o.Timeout), static: http.Header{}, meta: o.IncludeConnectionMeta,
		client: newHTTPClient(maxHookCalls), slots: make(chan struct{}, maxHookCalls)}
	for _, name := range o.HTTPHeaders {
		h.headers = append(h.headers, textproto.CanonicalMIMEHeaderKey(name))
	}
	for name, value := range o.StaticHeaders {
		h.static.Set(name, value)
	}
	return h
}

// newHTTPClient returns a client for calls to addresses that the configuration names, and to nowhere else: it
// follows no redirect and asks no proxy. Connections are kept for the next call.
func newHTTPClient(idle int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost:    idle,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // a small body must not become a large one
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// all returns the hooks that are configured.
func (h *Hooks) all() (all []*hook) {
	for _, one := range []*hook{h.connect, h.refresh, h.subscribe, h.subRefresh, h.publish, h.rpc} {
		if one != nil {
			all = append(all, one)
		}
	}
	return all
}

// check says which namespace asks for a hook that is not configured.
func (h *Hooks) check(n *Namespaces) error {
	for _, o := range n.all() {
		switch {
		case o.SubscribeProxy && h.subscribe == nil:
			return errors.New("a namespace has subscribe_proxy, but there is no subscribe hook: add it to FORGEWIRE_HOOKS")
		case o.PublishProxy && h.publish == nil:
			return errors.New("a namespace has publish_proxy, but there is no publish hook: add it to FORGEWIRE_HOOKS")
		}
	}
	return nil
}

// keep returns those of a handshake's headers that some hook is sent, and nil where there are none: they stay
// in memory as long as the connection. Once it is connected, the connect hook's are let go.
func (h *Hooks) keep(from http.Header, connected bool) http.Header {
	var kept http.Header
	for _, one := range h.all() {
		if connected && one == h.connect {
			continue
		}
		for _, name := range one.headers {
			if values := from[name]; len(values) > 0 {
				if kept == nil {
					kept = http.Header{}
				}
				kept[name] = slices.Clone(values) // they share an array with all the others
			}
		}
	}
	return kept
}

// close lets go of the connections that are kept.
func (h *Hooks) close() {
	for _, one := range h.all() {
		one.client.CloseIdleConnections()
	}
}
