package realtime

import (
	"encoding/binary"

	"github.com/centrifugal/protocol"
)

// WebSocket opcodes with the FIN bit (RFC 6455, section 5.2).
const (
	opText  = 0x81
	opClose = 0x88
)

// frame builds a server's WebSocket frame. Server frames are not masked, so one serves every subscriber;
// nobody may change it afterwards.
func frame(op byte, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+10)
	switch n := len(payload); {
	case n < 126:
		b = append(b, op, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, op, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, op, 127), uint64(n))
	}
	return append(b, payload...)
}

func closeFrame(d *Disconnect) []byte {
	return frame(opClose, append(binary.BigEndian.AppendUint16(nil, d.Code), d.Reason...))
}

// pingFrame is the protocol's ping: an empty reply.
var pingFrame = frame(opText, []byte("{}"))

// encodeReply returns the JSON of a reply, or nil for one that cannot be encoded, which only a payload that
// was not checked could cause.
func encodeReply(r *protocol.Reply) []byte {
	b, err := protocol.DefaultJsonReplyEncoder.Encode(r)
	if err != nil {
		return nil
	}
	return b
}

// replyFrame is one reply in one frame.
func replyFrame(r *protocol.Reply) []byte { return frame(opText, encodeReply(r)) }

// pushFrame is one frame with a channel's publications, one reply a line.
func pushFrame(channel string, messages []*Message) []byte {
	var b []byte
	for i, m := range messages {
		if i > 0 {
			b = append(b, '\n')
		}
		b = append(b, encodeReply(&protocol.Reply{Push: &protocol.Push{Channel: channel, Pub: m.publication()}})...)
	}
	return frame(opText, b)
}

func unsubscribeFrame(channel string) []byte {
	return replyFrame(&protocol.Reply{Push: &protocol.Push{Channel: channel,
		Unsubscribe: &protocol.Unsubscribe{Code: unsubscribeInsufficient, Reason: unsubscribeInsufficientReason}}})
}
