package realtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// ChannelOptions say what a namespace's channels are and what clients may do on them. The names are
// Centrifugo's.
type ChannelOptions struct {
	// Who may subscribe: whoever is connected, unless a namespace says otherwise.
	AllowSubscribeForClient    bool `json:"allow_subscribe_for_client"`    // default true; else a subscription token or a hook is needed
	AllowSubscribeForAnonymous bool `json:"allow_subscribe_for_anonymous"` // default true: clients without a user
	// Who may publish from a client: nobody, unless a namespace says otherwise.
	AllowPublishForClient     bool `json:"allow_publish_for_client"`     // whoever is connected
	AllowPublishForSubscriber bool `json:"allow_publish_for_subscriber"` // whoever is subscribed to the channel
	AllowPublishForAnonymous  bool `json:"allow_publish_for_anonymous"`  // of those, also clients without a user; default true
	PublishRate               int  `json:"publish_rate"`                 // publishes a second of one client on these channels; 0: as all commands

	// What is kept. The log keeps everything for its retention; these say how much of it clients get.
	Ephemeral                 bool     `json:"ephemeral"` // never stored: who is away misses it
	HistorySize               int      `json:"history_size"`
	HistoryTTL                Duration `json:"history_ttl"`
	AllowHistoryForSubscriber bool     `json:"allow_history_for_subscriber"` // default true
	Recovery                  bool     `json:"recovery"`                     // default true
	CacheChannel              bool     `json:"cache_channel"`                // a subscriber gets the last message at once
	Delta                     bool     `json:"delta"`                        // fossil deltas for clients that ask
	AllowTagsFilter           bool     `json:"allow_tags_filter"`            // clients may ask for a part of the publications, by their tags

	// Who is there.
	Presence                   bool `json:"presence"`
	JoinLeave                  bool `json:"join_leave"`
	AllowPresenceForSubscriber bool `json:"allow_presence_for_subscriber"` // default true

	// Who decides beside tokens.
	Authorize      bool `json:"authorize"`       // forgewire.authorize(user, channel, action) in the database
	SubscribeProxy bool `json:"subscribe_proxy"` // the subscribe hook
	PublishProxy   bool `json:"publish_proxy"`   // the publish hook
	Webhooks       bool `json:"webhooks"`        // occupied and vacated are reported
}

// Duration is a time.Duration that JSON has as "10m".
type Duration time.Duration

// UnmarshalJSON reads what time.ParseDuration reads.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New(`a duration is a string such as "10m"`)
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf(`%q is not a duration such as "10m"`, s)
	}
	*d = Duration(v)
	return nil
}

// defaultOptions are a channel's where nothing is configured.
var defaultOptions = ChannelOptions{
	AllowSubscribeForClient: true, AllowSubscribeForAnonymous: true, AllowPublishForAnonymous: true,
	AllowHistoryForSubscriber: true, Recovery: true, AllowPresenceForSubscriber: true,
}

// check says what contradicts itself, or "".
func (o ChannelOptions) check() string {
	switch {
	case o.Ephemeral && (o.HistorySize > 0 || o.HistoryTTL > 0):
		return "ephemeral channels have no history: remove history_size and history_ttl"
	case o.Ephemeral && o.CacheChannel:
		return "an ephemeral channel has no last message: remove cache_channel"
	case o.Ephemeral && o.Delta:
		return "ephemeral channels have no deltas: remove delta"
	case o.CacheChannel && !o.Recovery:
		return "a cache channel's last message is recovered: remove recovery or cache_channel"
	case o.HistorySize < 0 || o.PublishRate < 0:
		return "history_size and publish_rate cannot be negative"
	case o.JoinLeave && !o.Presence:
		return "join_leave needs presence"
	}
	return ""
}

// Namespaces are the channel options by prefix, "chat:1" belongs to the namespace "chat", or by pattern: "/users/7" to
// the one with the pattern "/users/:user". A channel of no namespace that is listed has the options of channels without one.
type Namespaces struct {
	without  ChannelOptions
	byName   map[string]ChannelOptions
	patterns []pattern       // of namespaces that no prefix leads to; the first that matches counts
	secluded map[string]bool // no client but an operator has their channels, whoever grants them
}

// NewNamespaces returns namespaces in which every channel has the default options.
func NewNamespaces() *Namespaces {
	return &Namespaces{without: defaultOptions, byName: map[string]ChannelOptions{OperatorNamespace: operatorOptions},
		secluded: map[string]bool{OperatorNamespace: true}}
}

// ParseNamespaces reads FORGEWIRE_NAMESPACES: JSON, or the path of a file with JSON.
//
//	{"without_namespace": {options}, "namespaces": [{"name": "chat", options}, {"name": "user", "pattern": "/users/:user", options}]}
//
// Keys it does not know and options that contradict each other are an error, with the line, so that a
// misspelt permission is not silently the default.
func ParseNamespaces(text string) (*Namespaces, error) {
	n := NewNamespaces()
	text = strings.TrimSpace(text)
	if text == "" {
		return n, nil
	}
	data := []byte(text)
	if text[0] != '{' {
		var err error
		if data, err = os.ReadFile(text); err != nil {
			return nil, fmt.Errorf("read the namespaces: %w", err)
		}
	}
	file := struct {
		Without    *ChannelOptions   `json:"without_namespace"`
		Namespaces []json.RawMessage `json:"namespaces"`
	}{Without: &n.without}
	if err := strict("namespaces", data, data, &file); err != nil {
		return nil, err
	}
	if why := n.without.check(); why != "" {
		return nil, fmt.Errorf("namespaces, line %d: without_namespace: %s", lineOf(data, []byte(`"without_namespace"`), 0), why)
	}
	for _, raw := range file.Namespaces {
		if err := n.add(data, raw); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// add reads one namespace, whose text is part of the file.
func (n *Namespaces) add(file, raw []byte) error {
	ns := struct {
		Name    string `json:"name"`
		Pattern string `json:"pattern"`
		ChannelOptions
	}{ChannelOptions: defaultOptions}
	if err := strict("namespaces", file, raw, &ns); err != nil {
		return err
	}
	line := lineOf(file, raw, 0)
	if checkChannel(ns.Name) != "" || strings.ContainsAny(ns.Name, ":$#") || ns.Name[0] == '/' {
		return fmt.Errorf("namespaces, line %d: %q is not a name: use letters, digits, - and _", line, ns.Name)
	}
	if ns.Name == OperatorNamespace {
		return fmt.Errorf("namespaces, line %d: %q belongs to the server", line, ns.Name)
	}
	_, twice := n.byName[ns.Name]
	if twice || slices.ContainsFunc(n.patterns, func(p pattern) bool { return p.namespace == ns.Name }) {
		return fmt.Errorf("namespaces, line %d: %q is listed twice", line, ns.Name)
	}
	if why := ns.check(); why != "" {
		return fmt.Errorf("namespaces, line %d: %q: %s", line, ns.Name, why)
	}
	if ns.Pattern == "" {
		n.byName[ns.Name] = ns.ChannelOptions
		return nil
	}
	p, wrong := parsePattern(ns.Pattern)
	if wrong != "" {
		return fmt.Errorf("namespaces, line %d: %q: %s", line, ns.Name, wrong)
	}
	p.namespace, p.options = ns.Name, ns.ChannelOptions
	at, same := slices.BinarySearchFunc(n.patterns, p, pattern.compare)
	if same {
		return fmt.Errorf("namespaces, line %d: %q matches the same channels as %q", line, ns.Name, n.patterns[at].namespace)
	}
	n.patterns = slices.Insert(n.patterns, at, p)
	return nil
}

// strict decodes part, which is all of the file or lies in it, and names the line of what it does not like.
func strict(what string, file, part []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(part))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s, line %d: %w", what, lineOf(file, part, int(d.InputOffset())), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s, line %d: something follows the closing brace", what, lineOf(file, part, int(d.InputOffset())))
	}
	return nil
}

// lineOf returns the line of the file on which the byte at offset in part stands.
func lineOf(file, part []byte, offset int) int {
	start := max(0, bytes.Index(file, part))
	return 1 + bytes.Count(file[:min(start+offset, len(file))], []byte("\n"))
}

// all returns the options of every namespace.
func (n *Namespaces) all() []ChannelOptions {
	all := append(slices.Collect(maps.Values(n.byName)), n.without)
	for _, p := range n.patterns {
		all = append(all, p.options)
	}
	return all
}

// of returns the options of a channel.
func (n *Namespaces) of(channel string) ChannelOptions {
	_, o := n.find(channel)
	return o
}

// find returns the options of a channel, and the namespace that they are of, "" for none that is listed.
func (n *Namespaces) find(channel string) (name string, o ChannelOptions) {
	if path := strings.TrimPrefix(channel, "$"); strings.HasPrefix(path, "/") {
		for _, p := range n.patterns {
			if p.matches(path) {
				return p.namespace, p.options
			}
		}
		return "", n.without
	}
	name = namespaceOf(channel)
	if o, listed := n.byName[name]; listed {
		return name, o
	}
	return "", n.without
}

// namespaceOf is the prefix of a channel, or "".
func namespaceOf(channel string) string {
	name, _, ok := strings.Cut(strings.TrimPrefix(channel, "$"), ":")
	if !ok {
		return ""
	}
	return name
}

// authorize reports whether the database decides on any channel.
func (n *Namespaces) authorize() bool {
	return slices.ContainsFunc(n.all(), func(o ChannelOptions) bool { return o.Authorize })
}
