package realtime

import (
	"encoding/binary"

	"github.com/centrifugal/protocol"
)

// format is how replies become bytes on a client's transport. What is published is encoded once for each
// format that has a subscriber.
type format uint8

const (
	wsJSON         format = iota // a WebSocket text frame, one reply a line
	wsProtobuf                   // a WebSocket binary frame, each reply behind its length
	streamJSON                   // HTTP streaming: one reply a line
	streamProtobuf               // HTTP streaming: each reply behind its length
	sseJSON                      // server-sent events: one reply an event
	events                       // server-sent events: one message an event, without the protocol around it
	formats                      // how many there are
)

func (f format) protocol() protocol.Type {
	if f == wsProtobuf || f == streamProtobuf {
		return protocol.TypeProtobuf
	}
	return protocol.TypeJSON
}

// encode returns replies as bytes that can go to any number of clients: nobody may change them. A reply that
// cannot be encoded, which only a payload that was not checked could cause, is left out.
func (f format) encode(replies ...*protocol.Reply) []byte {
	if f == events {
		return encodeEvents("", replies)
	}
	var body []byte
	encoder := protocol.GetReplyEncoder(f.protocol())
	for _, r := range replies {
		b, err := encoder.Encode(r)
		if err != nil {
			continue
		}
		switch f {
		case wsProtobuf, streamProtobuf:
			body = append(binary.AppendUvarint(body, uint64(len(b))), b...)
		case sseJSON:
			body = append(append(append(body, "data: "...), b...), "\n\n"...)
		case streamJSON:
			body = append(append(body, b...), '\n')
		default:
			if body == nil {
				body = b // ours, and nearly always the only one
				continue
			}
			body = append(append(body, '\n'), b...)
		}
	}
	switch f {
	case wsJSON:
		return frame(opText, body)
	case wsProtobuf:
		return frame(opBinary, body)
	default:
		return body
	}
}

// pings are the protocol's ping, an empty reply, in each format.
var pings = func() (p [formats][]byte) {
	for f := range formats {
		p[f] = f.encode(&protocol.Reply{})
	}
	return p
}()

// publications are a channel's messages as the subscribers get them.
func publications(channel string, messages []*Message) []*protocol.Reply {
	r := make([]*protocol.Reply, len(messages))
	for i, m := range messages {
		r[i] = push(&protocol.Push{Channel: channel, Pub: m.publication()})
	}
	return r
}

func push(p *protocol.Push) *protocol.Reply { return &protocol.Reply{Push: p} }

func unsubscribed(channel string, code uint32, reason string) *protocol.Reply {
	return push(&protocol.Push{Channel: channel, Unsubscribe: &protocol.Unsubscribe{Code: code, Reason: reason}})
}
