package realtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ChannelOptions say what a namespace's channels are and what clients may do on them. The names are
// Centrifugo's.
type ChannelOptions struct {
	// Who may subscribe: whoever is connected, unless a namespace says otherwise.
	AllowSubscribeForClient    bool `json:"allow_subscribe_for_client"`    // default true
	AllowSubscribeForAnonymous bool `json:"allow_subscribe_for_anonymous"` // default true: clients without a user
	// Who may publish from a client: nobody, unless a namespace says otherwise.
	AllowPublishForClient     bool `json:"allow_publish_for_client"`     // whoever is connected
	AllowPublishForSubscriber bool `json:"allow_publish_for_subscriber"` // whoever is subscribed to the channel
	AllowPublishForAnonymous  bool `json:"allow_publish_for_anonymous"`  // of those, also clients without a user; default true

	// What is kept. The log keeps everything for its retention; these say how much of it clients get.
	Ephemeral                 bool `json:"ephemeral"`                    // never stored: who is away misses it
	AllowHistoryForSubscriber bool `json:"allow_history_for_subscriber"` // default true
	Recovery                  bool `json:"recovery"`                     // default true
}

// defaultOptions are a channel's where nothing is configured.
var defaultOptions = ChannelOptions{
	AllowSubscribeForClient: true, AllowSubscribeForAnonymous: true, AllowPublishForAnonymous: true,
	AllowHistoryForSubscriber: true, Recovery: true,
}

// Namespaces are the channel options by prefix: "chat:1" belongs to the namespace "chat". A channel of no
// namespace that is listed has the options of channels without one.
type Namespaces struct {
	without ChannelOptions
	byName  map[string]ChannelOptions
}

// NewNamespaces returns namespaces in which every channel has the default options.
func NewNamespaces() *Namespaces {
	return &Namespaces{without: defaultOptions, byName: map[string]ChannelOptions{}}
}

// ParseNamespaces reads FORGEWIRE_NAMESPACES: JSON, or the path of a file with JSON.
//
//	{"without_namespace": {options}, "namespaces": [{"name": "chat", options}]}
//
// Keys it does not know are an error, with the line, so that a misspelt permission is not silently the default.
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
	if err := strict(data, data, &file); err != nil {
		return nil, err
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
		Name string `json:"name"`
		ChannelOptions
	}{ChannelOptions: defaultOptions}
	if err := strict(file, raw, &ns); err != nil {
		return err
	}
	line := lineOf(file, raw, 0)
	if checkChannel(ns.Name) != "" || strings.ContainsAny(ns.Name, ":$#") {
		return fmt.Errorf("namespaces, line %d: %q is not a name: use letters, digits, - and _", line, ns.Name)
	}
	if _, twice := n.byName[ns.Name]; twice {
		return fmt.Errorf("namespaces, line %d: %q is listed twice", line, ns.Name)
	}
	n.byName[ns.Name] = ns.ChannelOptions
	return nil
}

// strict decodes part, which is all of the file or lies in it, and names the line of what it does not like.
func strict(file, part []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(part))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("namespaces, line %d: %w", lineOf(file, part, int(d.InputOffset())), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("namespaces: something follows the closing brace")
	}
	return nil
}

// lineOf returns the line of the file on which the byte at offset in part stands.
func lineOf(file, part []byte, offset int) int {
	start := max(0, bytes.Index(file, part))
	return 1 + bytes.Count(file[:min(start+offset, len(file))], []byte("\n"))
}

// of returns the options of a channel.
func (n *Namespaces) of(channel string) ChannelOptions {
	name, _, ok := strings.Cut(strings.TrimPrefix(channel, "$"), ":")
	if o, listed := n.byName[name]; ok && listed {
		return o
	}
	return n.without
}
