package realtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/centrifugal/protocol"
)

// Bounds of a message.
const (
	MaxChannelLength = 255      // bytes
	MaxMessageBytes  = 16 << 20 // of data; a replica is configured to take less
	MaxTags          = 64
	MaxTagsBytes     = 4 << 10 // of their names and values
	MaxInfoBytes     = 4 << 10 // of what the token says of a client that publishes
)

// Message is what travels through the log: one publication on one channel.
type Message struct {
	Offset  uint64          // its number in the log; 0 until it is appended
	Channel string          // 1 to MaxChannelLength printable ASCII characters
	Data    json.RawMessage // valid JSON without line breaks; see compact
	Meta    Meta

	// Key makes a retry of the same publish not a second message: see MaxKeyLength. Only its publisher knows it.
	Key string

	ephemeral bool      // it travels in a notification alone
	published time.Time // by this replica's clock; zero where nobody asked the log
}

// Meta is what a publication carries beside its data.
type Meta struct {
	Info *Info             `json:"info,omitempty"` // who published it; nil for the server
	Tags map[string]string `json:"tags,omitempty"`
}

// Info names the client that published a message.
type Info struct {
	User     string          `json:"user"`
	Client   string          `json:"client"`
	ConnInfo json.RawMessage `json:"conn_info,omitempty"`
	ChanInfo json.RawMessage `json:"chan_info,omitempty"`
}

func (m Meta) empty() bool { return m.Info == nil && len(m.Tags) == 0 }

// check says whether m is small enough to travel with every copy of its message, as an *Error or nil.
func (m Meta) check() error {
	size := 0
	for k, v := range m.Tags {
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return ErrBadRequest.With("a tag has no name or is not valid UTF-8")
		}
		size += len(k) + len(v)
	}
	if len(m.Tags) > MaxTags || size > MaxTagsBytes {
		return ErrLimitExceeded.With(fmt.Sprintf("more than %d tags, or more than %d bytes of them", MaxTags, MaxTagsBytes))
	}
	if i := m.Info; i != nil && len(i.User)+len(i.ConnInfo) > MaxInfoBytes {
		return ErrLimitExceeded.With(fmt.Sprintf("the publisher's name and info are larger than %d bytes", MaxInfoBytes))
	}
	return nil
}

// encode returns the JSON of m, or "" for the zero Meta.
func (m Meta) encode() string {
	if m.empty() {
		return ""
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "" // ConnInfo is the only part that can be invalid, and it was checked when the client connected
	}
	return string(b)
}

func decodeMeta(s string) (m Meta, err error) {
	if s == "" {
		return Meta{}, nil
	}
	err = json.Unmarshal([]byte(s), &m)
	return m, err
}

// size is what counts where what is kept or read of the past is bounded in bytes: the data may be the least of it.
func (m *Message) size() int {
	n := len(m.Data)
	if i := m.Meta.Info; i != nil {
		n += len(i.User) + len(i.Client) + len(i.ConnInfo) + len(i.ChanInfo)
	}
	for k, v := range m.Meta.Tags {
		n += len(k) + len(v)
	}
	return n
}

// publication is the protocol's form of m.
func (m *Message) publication() *protocol.Publication {
	p := &protocol.Publication{Data: protocol.Raw(m.Data), Offset: m.Offset, Tags: m.Meta.Tags}
	if i := m.Meta.Info; i != nil {
		p.Info = &protocol.ClientInfo{User: i.User, Client: i.Client, ConnInfo: protocol.Raw(i.ConnInfo), ChanInfo: protocol.Raw(i.ChanInfo)}
	}
	return p
}

// checkChannel says what is wrong with a channel's name, or "".
func checkChannel(channel string) string {
	switch {
	case channel == "":
		return "the channel's name is empty"
	case len(channel) > MaxChannelLength:
		return "the channel's name is longer than 255 bytes"
	}
	for i := range len(channel) {
		if channel[i] < ' ' || channel[i] > '~' {
			return "the channel's name has a character that is not printable ASCII"
		}
	}
	return ""
}

// check says what is wrong with a message, as an *Error, or nil. It removes white space from its data.
func check(m *Message, maxBytes int) error {
	if why := checkChannel(m.Channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if len(m.Data) > maxBytes {
		return ErrLimitExceeded.With(fmt.Sprintf("data is larger than %d bytes", maxBytes))
	}
	data, why := compact(m.Data)
	if why != "" {
		return ErrBadRequest.With(why)
	}
	m.Data = data
	if why := checkIdempotencyKey(m.Key); why != "" {
		return ErrBadRequest.With(why)
	}
	return m.Meta.check()
}

// compact returns data without insignificant white space, so that it has no line break: those separate
// messages in a notification and in a protocol frame. It returns "" and why for what is not JSON.
func compact(data []byte) (json.RawMessage, string) {
	if len(data) == 0 {
		return nil, "data is missing"
	}
	if !utf8.Valid(data) {
		return nil, "data is not valid UTF-8"
	}
	if !json.Valid(data) {
		return nil, "data is not valid JSON"
	}
	if bytes.IndexByte(data, '\n') < 0 && bytes.IndexByte(data, '\r') < 0 {
		return data, ""
	}
	var b bytes.Buffer
	b.Grow(len(data))
	if err := json.Compact(&b, data); err != nil {
		return nil, "data is not valid JSON"
	}
	return b.Bytes(), ""
}
