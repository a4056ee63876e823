package bench

import (
	"bytes"
	wire "encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// loadClient is one client of a loader's.
type loadClient struct {
	state    clientState
	messages int
	due      int64  // when it was to come
	rest     []byte // the beginning of a frame, or of the answer to the handshake
}

type clientState uint8

const (
	shaking    clientState = iota // waits for the answer to the handshake
	connecting                    // to the connect command
	joining                       // to the subscribe command
	joined
)

var (
	pongFrame    = clientFrame([]byte(`{}`))
	pingLine     = []byte("\n{}\n")
	lineBreak    = []byte("\n")
	endOfHead    = []byte("\r\n\r\n")
	upgraded     = []byte("HTTP/1.1 101 ")
	messageKey   = []byte(`"data":{"n":`) // how crowdData begins
	recoveredKey = []byte(`"recovered":true`)
)

// clientFrame is a client's text frame: those are masked, here by zeros.
func clientFrame(payload []byte) []byte {
	b := []byte{0x81}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = wire.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// take handles the whole frames at the beginning of b, and returns what is left.
func (l *loader) take(fd int32, c *loadClient, b []byte) (rest []byte, err error) {
	if c.state == shaking {
		i := bytes.Index(b, endOfHead)
		if i < 0 {
			return b, nil
		}
		if !bytes.HasPrefix(b, upgraded) {
			status, _ := strconv.Atoi(string(b[min(len(b), 9):min(len(b), 12)])) // 0 is no status, which says as much
			return nil, fmt.Errorf("the handshake was answered: %w", refusal(status, b[:min(len(b), 100)]))
		}
		b = b[i+len(endOfHead):]
		c.state = connecting
		if err = send(fd, l.greet); err != nil {
			return nil, err
		}
	}
	for {
		op, payload, rest, ok := cutFrame(b)
		if !ok {
			return b, nil
		}
		b = rest
		if op != 1 {
			return nil, fmt.Errorf("a frame of kind %d came: %.200q: %w", op, payload, io.ErrUnexpectedEOF)
		}
		if hasPing(payload) {
			if err = send(fd, pongFrame); err != nil {
				return nil, err
			}
			if len(payload) <= len(ping)+len(lineBreak) {
				continue // that is all
			}
		}
		if err = l.handle(fd, c, payload); err != nil {
			return nil, err
		}
	}
}

// cutFrame cuts a server's frame, which is not masked, off b.
func cutFrame(b []byte) (op byte, payload, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, b, false
	}
	head, n := 2, int(b[1])
	switch n {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if len(b) < head {
		return 0, nil, b, false
	}
	switch n {
	case 126:
		n = int(wire.BigEndian.Uint16(b[2:]))
	case 127:
		n = int(wire.BigEndian.Uint64(b[2:]))
	}
	if n < 0 || len(b)-head < n {
		return 0, nil, b, false
	}
	return b[0] & 0x0f, b[head : head+n], b[head+n:], true
}

// hasPing reports whether one of a frame's lines is a ping.
func hasPing(payload []byte) bool {
	return bytes.HasPrefix(payload, ping) || bytes.HasSuffix(bytes.TrimSuffix(payload, lineBreak), ping) || bytes.Contains(payload, pingLine)
}

// handle takes one frame's replies.
func (l *loader) handle(fd int32, c *loadClient, payload []byte) error {
	switch c.state {
	case connecting:
		if !bytes.Contains(payload, []byte(`"connect":`)) {
			return fmt.Errorf("connect was answered: %w", apiRefusal(http.StatusOK, payload))
		}
		c.state = joining
		return send(fd, l.join)
	case joining:
		if !bytes.Contains(payload, []byte(`"subscribe":`)) {
			return fmt.Errorf("subscribe was answered: %w", apiRefusal(http.StatusOK, payload))
		}
		if l.order != nil && l.order.Open != nil && l.order.Open.Since != nil && !bytes.Contains(payload, recoveredKey) {
			return fmt.Errorf("%w: a client was not recovered: %.200q", ErrBroken, payload)
		}
		c.state = joined
	}
	if l.order != nil && l.order.Await != nil && l.order.Await.Timed {
		l.time(payload)
	}
	return c.count(payload)
}

var dueKey = []byte(`,"t":`) // how crowdData goes on

// time records how long each message in a frame took from when it was due.
func (l *loader) time(payload []byte) {
	now := time.Now().UnixNano()
	for {
		_, rest, ok := bytes.Cut(payload, messageKey)
		if !ok {
			return
		}
		payload = rest
		i := bytes.Index(payload, dueKey)
		if i < 0 || len(payload) < i+len(dueKey)+digits {
			return
		}
		if due, ok := getDigits(payload[i+len(dueKey):]); ok {
			l.times.add(now - due)
		}
	}
}

// count counts the messages in a frame. Those of a channel are numbered from 0, so the last one's number tells
// whether one was lost or came twice.
func (c *loadClient) count(payload []byte) error {
	n := bytes.Count(payload, messageKey)
	if n == 0 {
		return nil
	}
	c.messages += n
	number := payload[bytes.LastIndex(payload, messageKey)+len(messageKey):]
	end := bytes.IndexByte(number, ',')
	last, err := strconv.Atoi(string(number[:max(end, 0)]))
	if err != nil || last != c.messages-1 {
		return fmt.Errorf("%w: message %d came when %d were received", ErrBroken, last, c.messages)
	}
	return nil
}
