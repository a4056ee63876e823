package realtime

import "encoding/binary"

// WebSocket opcodes with the FIN bit (RFC 6455, section 5.2).
const (
	opText   = 0x81
	opBinary = 0x82
	opClose  = 0x88
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
