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

// ChannelOptions say what clients may do on the channels of a namespace.
type ChannelOptions struct {
	AllowPublishForClient     bool `json:"allow_publish_for_client"`     // whoever is connected
	AllowPublishForSubscriber bool `json:"allow_publish_for_subscriber"` // whoever is subscribed to the channel
}

// Namespaces are the channel options by prefix: "chat:1" belongs to the namespace "chat". A channel of no
// namespace that is listed has the options in WithoutNamespace.
type Namespaces struct {
	WithoutNamespace ChannelOptions `json:"without_namespace"`
	Namespaces       []struct {
		Name string `json:"name"`
		ChannelOptions
	} `json:"namespaces"`

	byName map[string]ChannelOptions
}

// ParseNamespaces reads FORGEWIRE_NAMESPACES: JSON, or the path of a file with JSON. Keys it does not know
// are an error, so that a misspelt permission is not silently the default.
func ParseNamespaces(text string) (*Namespaces, error) {
	n := &Namespaces{byName: map[string]ChannelOptions{}}
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
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(n); err != nil {
		line := 1 + bytes.Count(data[:min(int(d.InputOffset()), len(data))], []byte("\n"))
		return nil, fmt.Errorf("namespaces, line %d: %w", line, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("namespaces: something follows the closing brace")
	}
	for _, ns := range n.Namespaces {
		if why := checkChannel(ns.Name); why != "" || strings.ContainsAny(ns.Name, ":$#") {
			return nil, fmt.Errorf("namespaces: %q is not a name: use letters, digits, - and _", ns.Name)
		}
		if _, twice := n.byName[ns.Name]; twice {
			return nil, fmt.Errorf("namespaces: %q is listed twice", ns.Name)
		}
		n.byName[ns.Name] = ns.ChannelOptions
	}
	return n, nil
}

// of returns the options of a channel.
func (n *Namespaces) of(channel string) ChannelOptions {
	name, _, ok := strings.Cut(strings.TrimPrefix(channel, "$"), ":")
	if o, listed := n.byName[name]; ok && listed {
		return o
	}
	return n.WithoutNamespace
}
