package bench

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A message's data says when it was sent and which one it is, in numbers of fixed width, so that a publisher
// patches them in place and a receiver finds them without decoding JSON:
//
//	"t:1780000000000000000,i:1000007000000000042,x:xxxx…"
//
// i is a 1, six digits of publisher and twelve of count. It is a string, which jsonb leaves as it is.
const (
	stampPrefix = `"t:`
	idPrefix    = `,i:`
	tailPrefix  = `,x:`
	tailSuffix  = `"`
	digits      = 19
	idAt        = len(stampPrefix) + digits + len(idPrefix)
	minSize     = idAt + digits + len(tailPrefix) + len(tailSuffix)

	idBase    = 1_000_000_000_000_000_000
	idPerson  = 1_000_000_000_000
	endOfRun  = 999_999 // the publisher of the last message of each channel; its count is the channel
	maxPeople = endOfRun
)

// newData makes data of a size, at least minSize, to be stamped.
func newData(size int) []byte {
	zeros := strings.Repeat("0", digits)
	return fmt.Appendf(nil, "%s%s%s%s%s%s%s", stampPrefix, zeros, idPrefix, zeros, tailPrefix, strings.Repeat("x", size-minSize), tailSuffix)
}

// stamp writes into data, which is now the publisher's message of that count, and returns the time of sending.
func stamp(data []byte, publisher, count int) int64 {
	now := time.Now().UnixNano()
	stampAt(data, publisher, count, now)
	return now
}

// stampAt is stamp for a message that was due at another time than now.
func stampAt(data []byte, publisher, count int, at int64) {
	putDigits(data[len(stampPrefix):], at)
	putDigits(data[idAt:], idBase+int64(publisher)*idPerson+int64(count))
}

func putDigits(b []byte, n int64) {
	for i := digits - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// arrival is what was found of one message.
type arrival struct {
	sent             int64
	publisher, count int
}

var stampStart = []byte(stampPrefix)

// findMessage returns the first message in b and what follows the stamps.
func findMessage(b []byte) (a arrival, rest []byte, ok bool) {
	i := bytes.Index(b, stampStart)
	if i < 0 || len(b) < i+minSize {
		return a, nil, false
	}
	sent, ok1 := getDigits(b[i+len(stampPrefix):])
	id, ok2 := getDigits(b[i+idAt:])
	if !ok1 || !ok2 || id < idBase {
		return a, nil, false
	}
	id -= idBase
	return arrival{sent: sent, publisher: int(id / idPerson), count: int(id % idPerson)}, b[i+minSize:], true
}

func getDigits(b []byte) (n int64, ok bool) {
	for _, c := range b[:digits] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

var offsetKey = []byte(`"offset":`)

// findOffset reads the first offset in b: after a message's data it is that message's.
func findOffset(b []byte) (offset uint64, rest []byte, ok bool) {
	i := bytes.Index(b, offsetKey)
	if i < 0 {
		return 0, nil, false
	}
	b = b[i+len(offsetKey):]
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	offset, err := strconv.ParseUint(string(b[:n]), 10, 64)
	return offset, b[n:], err == nil
}
