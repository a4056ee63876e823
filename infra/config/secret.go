package config

import (
	"fmt"
	"io"
	"log/slog"
)

// hidden is what a secret that is set looks like. An empty one looks empty,
// which is worth knowing and gives nothing away.
const hidden = "[secret]"

// Secret is text that must not be shown: every way in which fmt, slog and the
// encoders turn a value into text gives a placeholder.
//
// The gaps are Go's, which does not ask a type that is a string: fmt does not
// for what it reaches through an unexported field or prints as a wrong verb's
// operand (go vet finds those), encoding/json does not for the key of a map. So
// keep a Config behind the pointer that [Load] returns, and make no key of a
// Secret.
type Secret string

// Reveal gives the text itself, for the one who connects or compares.
func (s Secret) Reveal() string { return string(s) }

// String gives the placeholder.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString gives the placeholder for %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format gives the placeholder for every verb, %x and %d included.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text) // a Formatter has nowhere to report an error
}

// LogValue gives the placeholder to slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText gives the placeholder to the encoders of JSON, XML and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
