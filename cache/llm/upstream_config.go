package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"
)

// PassThrough as an upstream's key sends it the key that the caller brought in Authorization. Forgewire's own key
// then comes in the header Forgewire-Key.
const PassThrough = "passthrough"

// Defaults of an upstream.
const (
	defaultTimeout     = 10 * time.Minute // what the OpenAI SDKs wait
	defaultIdleTimeout = 2 * time.Minute
)

// Price is what a million tokens cost, in any unit.
type Price struct {
	Input  float64 `json:"input"`
	Output float64 `json:"output"`
}

// Upstream is a server that speaks the OpenAI API.
type Upstream struct {
	Name        string
	URL         *url.URL // what stands before /chat/completions: https://…/v1
	Key         string   // sent as Authorization: Bearer; "" sends none; or PassThrough
	Models      []string // patterns of the models that it serves, with * for any text; empty: all
	Timeout     time.Duration
	IdleTimeout time.Duration // longest silence in a stream
	Prices      map[string]Price
}

// Upstreams are who may be asked, and what under which name.
type Upstreams struct {
	List []Upstream
	// Aliases are names of models that stand for others: each for "upstream/model", and for the next one where that
	// one fails.
	Aliases map[string][]string
}

// SingleUpstream is one server for all models.
func SingleUpstream(base, key string) (Upstreams, error) {
	u, err := parseBase(base)
	if err != nil {
		return Upstreams{}, err
	}
	return Upstreams{List: []Upstream{{Name: "default", URL: u, Key: key, Timeout: defaultTimeout, IdleTimeout: defaultIdleTimeout}}}, nil
}

// upstreamFile is one upstream in the configuration.
type upstreamFile struct {
	Name        string           `json:"name"`
	URL         string           `json:"url"`
	Key         string           `json:"key"`
	KeyFile     string           `json:"key_file"`
	KeyEnv      string           `json:"key_env"`
	Models      []string         `json:"models"`
	Timeout     string           `json:"timeout"`
	IdleTimeout string           `json:"idle_timeout"`
	Prices      map[string]Price `json:"prices"`
}

// ParseUpstreams reads FORGEWIRE_UPSTREAMS: JSON, or the path of a file with JSON. getenv reads what key_env names.
//
//	{"upstreams": [{"name": "openai", "url": "https://api.openai.com/v1", "key_env": "OPENAI_API_KEY",
//	                "models": ["gpt-*"], "timeout": "5m", "prices": {"gpt-5": {"input": 1.25, "output": 10}}}],
//	 "aliases": {"smart": ["openai/gpt-5", "azure/gpt-5"]}}
//
// No error quotes a key.
func ParseUpstreams(text string, getenv func(string) string) (Upstreams, error) {
	data := []byte(strings.TrimSpace(text))
	if len(data) > 0 && data[0] != '{' {
		var err error
		if data, err = os.ReadFile(string(data)); err != nil {
			return Upstreams{}, fmt.Errorf("read the upstreams: %w", err)
		}
	}
	var file struct {
		Upstreams []upstreamFile      `json:"upstreams"`
		Aliases   map[string][]string `json:"aliases"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return Upstreams{}, fmt.Errorf("upstreams, near byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Upstreams{}, errors.New("upstreams: something follows the closing brace")
	}
	if len(file.Upstreams) == 0 {
		return Upstreams{}, errors.New("upstreams: none is listed")
	}
	u := Upstreams{Aliases: file.Aliases}
	for _, f := range file.Upstreams {
		one, err := f.upstream(getenv)
		if err != nil {
			return Upstreams{}, fmt.Errorf("upstream %q: %w", f.Name, err)
		}
		if u.byName(one.Name) != nil {
			return Upstreams{}, fmt.Errorf("upstream %q is listed twice", f.Name)
		}
		u.List = append(u.List, one)
	}
	for alias, targets := range u.Aliases {
		if len(targets) == 0 {
			return Upstreams{}, fmt.Errorf("alias %q stands for nothing", alias)
		}
		for _, t := range targets {
			name, model, ok := strings.Cut(t, "/")
			if !ok || model == "" || u.byName(name) == nil {
				return Upstreams{}, fmt.Errorf("alias %q: %q is not the name of an upstream, a slash and a model", alias, t)
			}
		}
	}
	return u, nil
}

func (f *upstreamFile) upstream(getenv func(string) string) (u Upstream, err error) {
	u = Upstream{Name: f.Name, Key: f.Key, Models: f.Models, Prices: f.Prices}
	if f.Name == "" || strings.ContainsAny(f.Name, "/ ;,\"") {
		return u, errors.New("the name must be letters, digits, - and _")
	}
	if u.URL, err = parseBase(f.URL); err != nil {
		return u, err
	}
	given := 0
	for _, s := range []string{f.Key, f.KeyFile, f.KeyEnv} {
		if s != "" {
			given++
		}
	}
	if given > 1 {
		return u, errors.New("only one of key, key_file and key_env can be given")
	}
	if f.KeyFile != "" {
		b, err := os.ReadFile(f.KeyFile)
		if err != nil {
			return u, fmt.Errorf("read its key: %w", err)
		}
		u.Key = string(bytes.TrimSpace(b))
	}
	if f.KeyEnv != "" {
		u.Key = strings.TrimSpace(getenv(f.KeyEnv))
	}
	if given > 0 && u.Key == "" {
		return u, errors.New("its key is empty")
	}
	if strings.ContainsFunc(u.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return u, errors.New("its key has characters that cannot travel in a header")
	}
	if u.Timeout, err = duration(f.Timeout, defaultTimeout); err != nil {
		return u, fmt.Errorf("timeout: %w", err)
	}
	if u.IdleTimeout, err = duration(f.IdleTimeout, defaultIdleTimeout); err != nil {
		return u, fmt.Errorf("idle_timeout: %w", err)
	}
	for model, p := range f.Prices {
		if p.Input < 0 || p.Output < 0 {
			return u, fmt.Errorf("the price of %q is negative", model)
		}
	}
	return u, nil
}

func duration(text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration above 0", text)
	}
	return d, nil
}

// parseBase reads a base URL. Its errors do not quote it: it may hold a password.
func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimSpace(text), "/"))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the URL must be http:// or https:// with a host, up to and including /v1")
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("the URL may hold neither a user nor a fragment")
	}
	return u, nil
}

func (u *Upstreams) byName(name string) *Upstream {
	for i := range u.List {
		if u.List[i].Name == name {
			return &u.List[i]
		}
	}
	return nil
}

// serves says whether a model is one of the upstream's.
func (u *Upstream) serves(model string) bool {
	for _, p := range u.Models {
		if matches(p, model) {
			return true
		}
	}
	return len(u.Models) == 0
}

// cost is what tokens of a model cost, in millionths of the price's unit. Its own price counts,
// or that of the longest pattern.
func (u *Upstream) cost(model string, t usage) int64 {
	best, price := -1, Price{}
	if own, ok := u.Prices[model]; ok {
		best, price = len(model)+1, own
	}
	for p, v := range u.Prices {
		if len(p) > best && matches(p, model) {
			best, price = len(p), v
		}
	}
	return int64(price.Input*float64(t.prompt) + price.Output*float64(t.completion) + 0.5)
}

// A route is an upstream and the name that a model has there.
type route struct {
	upstream *Upstream
	model    string
}

// routes returns whom to ask for a model, in order; nobody if nobody serves it.
func (u *Upstreams) routes(model string) (all []route) {
	for _, t := range u.Aliases[model] {
		name, there, _ := strings.Cut(t, "/")
		all = append(all, route{u.byName(name), there})
	}
	if all != nil {
		return all
	}
	for i := range u.List {
		if u.List[i].serves(model) {
			return []route{{&u.List[i], model}}
		}
	}
	return nil
}
